"""The tables of docs/captions.md: certificates over repeats, savings, drift.

python -m benchmarks.captions.page [--check]
"""

from __future__ import annotations

from benchmarks.tables import ROOT, between, result, table, update

PAGE = ROOT / "docs" / "captions.md"
_KINDS = {
    "independent": "every picture its own",
    "clustered": "families of four, which fail or succeed together; other families later",
    "unequal": "four fixed cameras with 5 % of the requests each; some fail 30 % of the time",
    "skewed": "families of 1 to 60, large ones worse; other families later",
    "bursts": "four pictures that go round for a while, with 4 % of the requests each",
    "chain": "a chain of three models; every picture its own",
    "easy": "every picture its own, and the small model nearly always succeeds",
}


def share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def certificate() -> list[str]:
    measured = result("captions_certificate")
    assert measured is not None, "benchmarks/results/captions_certificate.json is not there"
    rows = [
        [
            f"**{row['what']}**: {_KINDS[row['what']]}",
            f"{row['draws']:.0f}" if row["draws"] else "",
            f"{row['certified']} of {row['repeats']}",
            share(row["error"]),
            f"**{row['broken']}**",
            share(row["of_oracle"]),
        ]
        for row in measured["rows"]
    ]
    head = (
        "log of 3,000 requests",
        "draws",
        "certified",
        "true error",
        "broken",
        "of the oracle's small share",
    )
    return table(head, rows)


def whole_log() -> list[str]:
    measured = result("captions_savings")
    assert measured is not None, "benchmarks/results/captions_savings.json is not there"
    alpha, column = next(iter(measured["alphas"].items()))
    one = column["one calibration on the whole log"]
    cost = measured["decision_cpu_seconds"]
    rows = [
        [
            policy["name"],
            share(policy["small_share"]),
            share(policy["savings"]),
            f"{policy['quality']:.3f}",
            share(policy["error"]),
        ]
        for policy in one["policies"]
    ]
    ours = one["policies"][0]
    interval = f"[{100 * ours['low']:.1f}, {100 * ours['high']:.1f}]"
    rows[0][0] = f"**{one['mode']}, certified**"
    rows[0][2] = f"**{share(ours['savings'])}** {interval}"
    rows[0][4] += f" (at most {share(one['error_high'])})"
    head = ("way of choosing", "small", "savings", "mean quality", "unacceptable")
    return [
        f"One calibration on the whole log, alpha {float(alpha):.0%}, delta 5 %, with the "
        f"{1000 * cost:.3f} ms of CPU that `benchmarks.captions.savings` measured for a decision:",
        "",
        "```sh",
        f"halftime captions calibrate benchmarks/captions/log.jsonl.gz --alpha {alpha} "
        f"--router-cost {cost:.6f}",
        "```",
        "",
        *table(head, rows),
        "",
        f"Savings = f (1 - r) = {ours['small_share']:.3f} x (1 - {one['cost_ratio']:.3f}) = "
        f"{ours['small_share'] * (1 - one['cost_ratio']):.3f}, less the judge, who looks at "
        f"{share(one['checked_share'])} of the requests, and the router: {ours['savings']:.3f}, "
        f"{share(one['share_of_oracle'])} of what the oracle saves.",
    ]


def savings() -> list[str]:
    measured = result("captions_savings")
    assert measured is not None, "benchmarks/results/captions_savings.json is not there"
    columns = list(measured["alphas"].values())
    rows = [
        ["certified", *(f"{c['certified']} of {c['repeats']}" for c in columns)],
        [
            "error on the other half within alpha",
            *(f"{c['guarantee held']} of {c['repeats']}" for c in columns),
        ],
        [
            "better than random mixing at equal cost",
            *(f"{c['better than random mixing at equal cost']} of {c['repeats']}" for c in columns),
        ],
        ["savings, median (5th to 95th percentile)", *(_range(c, "savings") for c in columns)],
        ["share of the oracle's savings", *(_range(c, "of_oracle") for c in columns)],
        [
            "the same with thresholds set in hindsight",
            *(_range(c, "of_oracle_in_hindsight") for c in columns),
        ],
        ["small answers that the judge looks at", *(_range(c, "checked_share") for c in columns)],
    ]
    return table(("", *(f"alpha {float(a):.0%}" for a in measured["alphas"])), rows)


def _range(column: dict, name: str) -> str:
    values = column.get(f"{name}, median and 5th to 95th percentile")
    if values is None:  # of a run before it was measured
        return "not measured"
    middle, low, high = values
    return f"{share(middle)} ({share(low)} to {share(high)})"


def drift() -> list[str]:
    measured = result("captions_drift")
    assert measured is not None, "benchmarks/results/captions_drift.json is not there"
    *delays, calm = measured["rows"]
    rows = [
        [
            row["what"],
            f"{row['mean']:.0f}",
            f"{row['median']:.0f}",
            f"{row['high']:.0f}",
            share(row["within_500"]),
        ]
        for row in delays
    ]
    lines = table(
        ("judged answers until the alarm", "mean", "median", "95th percentile", "within 500"), rows
    )
    return [
        *lines,
        "",
        f"Without drift, at an error of exactly {measured['alpha']:.0%}: {calm['alarms']} alarms "
        f"in {calm['answers']:,} judged answers.",
    ]


def rewritten(page: str) -> str:
    tables = {
        "certificate": certificate(),
        "whole log": whole_log(),
        "savings": savings(),
        "drift": drift(),
    }
    for name, lines in tables.items():
        page = between(page, name, lines)
    return page


if __name__ == "__main__":
    update({PAGE: rewritten})
