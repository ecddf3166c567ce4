"""The tables of docs/forecast.md, from benchmarks/results/forecast_check.json.

    python -m workshop.forecast.page [--check]

Rewrites the text between the page's markers; --check only says whether that would change it.
"""

from __future__ import annotations

from benchmarks.tables import ROOT, between, result, table, update

PAGE = ROOT / "docs" / "forecast.md"
SPLITS = {
    "leave_one_gpu_out": "no calibration, a GPU left out of the fit",
    "leave_one_family_out": "no calibration, a model family left out of the fit",
    "leave_one_gpu_out_one_row": "GPU left out, then one row of it: all its other rows",
    "leave_one_gpu_out_one_row_other_family": (
        "GPU left out, then one row of it: other model families"
    ),
}


def errors(title: str, summaries: dict[str, dict]) -> list[str]:
    """A row for each part of a split, by its name."""
    head = (title, "forecasts", "median", "p90", "bias", "inside the 90 % band")
    rows = [
        [
            name,
            f"{summary['n']:,}",
            f"{summary['median']:.1%}",
            f"{summary['p90']:.1%}",
            f"{summary['bias']:+.1%}",
            f"{summary['inside_90_band']:.0%}",
        ]
        for name, summary in summaries.items()
    ]
    return [*table(head, rows), ""]


def ordering(part: str, order: dict) -> list[str]:
    return [
        f"Order of two configurations on one GPU, {part} left out: {order['right']:.1%} of "
        f"{order['pairs']:,} pairs right, {order['clear_right']:.1%} of the "
        f"{order['clear_pairs']:,} that lie more than 13 % apart.",
        "",
    ]


def rewritten(page: str) -> str:
    measured = result("forecast_check")
    assert measured is not None
    by_gpu, noise = measured["by_gpu"], measured["noise_between_sources"]
    calibrated = {name: gpu["one_row"] for name, gpu in by_gpu.items() if gpu["one_row"]}
    lines = [
        *errors("split", {text: measured[key] for key, text in SPLITS.items()}),
        *errors("GPU left out", {name: gpu["none"] for name, gpu in by_gpu.items()}),
        *errors("after one row of it", calibrated),
        *errors("family left out", measured["by_family"]),
        *ordering("GPU", measured["ordering_gpu_left_out"]),
        *ordering("family", measured["ordering_family_left_out"]),
        f"Rows measured faster than the hard floor: {measured['floor_above_measurement']}.",
        "",
        f"For comparison, the noise between sources: {noise['pairs']} pairs of rows with equal "
        "configurations on equal GPUs from different hosts differ by "
        f"{noise['median']:.1%} (median) and {noise['p90']:.1%} (p90).",
    ]
    return between(page, "errors", lines)


if __name__ == "__main__":
    update({PAGE: rewritten})
