"""The tables of docs/tune.md, from benchmarks/results/tune_*.json.

    python -m benchmarks.tune.page [--check]

Rewrites the text between the page's markers; --check only says whether that would change it.
"""

from __future__ import annotations

from benchmarks.tables import ROOT, between, result, table, update
from halftime.base.units import NOTHING, ratio, seconds, share

PAGE = ROOT / "docs" / "tune.md"


def certificates(measured: dict) -> list[str]:
    """How often the certificate was given and kept, and what it gained."""
    rows = [
        [
            share(row["alpha_share"]),
            f"{row['given']} of {row['calibrations']}",
            f"{row['kept']} of {row['calibrations']}",
            share(row["future_share"]),
            ratio(row["speedup"]),
            ", ".join(f"{name} ({count})" for name, count in row["chosen"].items()),
        ]
        for row in measured["certificates"]
    ]
    head = ("alpha", "certified", "kept", "differ on other prompts", "speedup", "settings (times)")
    return table(head, rows)


def settings(measured: dict, timed: dict) -> list[str]:
    """Every setting: how fast, and how many of its pictures differ visibly."""
    intervals = {row["setting"]: row for row in timed["settings"]}
    rows = []
    for row in sorted(measured["settings"], key=lambda row: row["visible_share"]):
        speed = intervals[row["setting"]]
        name = row["setting"]
        rows.append(
            [
                f"**{name}**" if row["fixed elsewhere"] else name,
                f"{ratio(row['speedup'])} ({speed['speedup_low']:.2f} to "
                f"{speed['speedup_high']:.2f})",
                share(row["visible_share"]),
                share(row["at_most_share"]),
                f"{row['median_size']:.2f}",
                f"{row['largest_size']:.1f}",
            ]
        )
    head = ("setting", "speedup", "differ visibly", "at most", "median pair", "farthest pair")
    return table(head, rows)


def hard(measured: dict) -> list[str]:
    """What the router of hard prompts saves."""
    rows = [
        [
            share(row["alpha_share"]),
            f"{row['kept']} of {measured['certificates'][0]['calibrations']}",
            share(row["cheap_share"]),
            share(row["saving_share"]),
            share(row["oracle_saving_share"]),
            share(row["of_oracle_ratio"]),
            share(row["future_share"]),
        ]
        for row in measured["hard_prompts"]
    ]
    head = (
        "alpha",
        "kept",
        "go on cheaply",
        "saved of the full call",
        "an oracle saves",
        "of the oracle",
        "differ on other prompts",
    )
    return table(head, rows) if rows else [NOTHING]


def fastest(measured: dict) -> list[str]:
    """halftime's recipes and the peers, in one run; behind them those that could not run."""
    rows = [
        [
            row["who"],
            seconds(row["seconds"]),
            interval(row, "speedup"),
            f"{interval(row, 'over_best_peer')} {row['best_peer']}"
            if "best_peer" in row
            else NOTHING,
            f"{row['rmse']:.2f}",
        ]
        for row in measured["contestants"]
    ]
    rows += [[who, NOTHING, NOTHING, NOTHING, why] for who, why in measured["refused"].items()]
    head = ("who", "a call", "over diffusers' default", "over the best peer", "rmse, grey levels")
    return table(head, rows)


def interval(row: dict, name: str) -> str:
    """'4.37x (4.13 to 4.61)'."""
    return f"{ratio(row[name])} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})"


def rewrite(page: str) -> str:
    """The page with its tables."""
    measured, timed = result("tune_certified"), result("tune_speed")
    assert measured is not None
    assert timed is not None
    page = between(page, "certificates", certificates(measured))
    page = between(page, "approximate settings", settings(measured, timed))
    contest = result("tune_fastest")
    assert contest is not None
    page = between(page, "fastest", fastest(contest))
    true_size = result("tune_true_size")
    assert true_size is not None
    page = between(page, "true size", fastest(true_size))
    return between(page, "hard prompts", hard(measured))


if __name__ == "__main__":
    update({PAGE: rewrite})
