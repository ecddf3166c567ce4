"""The tables of docs/gate.md, from benchmarks/results/gate_planted.json.

    python -m benchmarks.gate.page [--check]

Rewrites the text between the page's markers; --check only says whether that would change it.
"""

from __future__ import annotations

from benchmarks.tables import ROOT, between, machine, result, table, update
from halftime.base.stats import median, quantile
from halftime.base.units import NOTHING, seconds, share

PAGE = ROOT / "docs" / "gate.md"
# result field -> column
FIXED = {
    "25 % and six retries_share": "25 % and six retries",
    "20 % fixed_share": "20 % fixed",
    "8 % against the median of five_share": "8 % over the median of five",
    "pytest-benchmark, median:5%_share": "pytest-benchmark, median:5%",
}


def curves(measured: dict) -> list[str]:
    """The gate by budget and load, beside fixed thresholds."""
    head = ("busy", "budget", "planted", "slower", "pass", "undecided", "stage right")
    return table(
        (*head, *FIXED.values()),
        [
            [
                str(row["busy"]),
                seconds(row["budget_seconds"]),
                share(row["slowdown_share"]),
                share(row["slower_share"]),
                share(row["pass_share"]),
                share(row["undecided_share"]),
                share(row["stage_right_share"]) if row["slowdown_share"] else NOTHING,
                *(share(row[name]) for name in FIXED),
            ]
            for row in measured["rows"]
        ],
    )


def pools(measured: dict) -> list[str]:
    """What the runs were drawn from, in a sentence for each load."""
    where = machine("gate_planted")
    return [
        f"Beside {pool['busy']} busy processes: {pool['cohorts']} cohorts of "
        f"{seconds(pool['cohort_seconds'])}, a call of {seconds(pool['wall_seconds'])}, medians of "
        f"processes from {seconds(quantile(pool['process_medians_seconds'], 0.05))} to "
        f"{seconds(quantile(pool['process_medians_seconds'], 0.95))} (5th to 95th percentile), "
        f"half of them below {seconds(median(pool['process_medians_seconds']))}; "
        f"{where.processor}, {where.cores} cores."
        for pool in measured["pools"]
    ]


def tables(page: str) -> str:
    """The page with today's tables."""
    measured = result("gate_planted")
    if measured is None:
        return page
    return between(page, "planted", [*pools(measured), "", *curves(measured)])


if __name__ == "__main__":
    update({PAGE: tables})
