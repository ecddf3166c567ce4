"""The tables of docs/fix.md, from benchmarks/results/fix_*.json.

    python -m benchmarks.fix.page [--check]

Rewrites the text between the page's markers; --check only says whether that would change it.
"""

from __future__ import annotations

from benchmarks.tables import ROOT, between, machine, record_of, result, table, update
from halftime.base.units import NOTHING, ratio, seconds, share, size
from halftime.records.verdict import Verdict

PAGE = ROOT / "docs" / "fix.md"


def interval(row: dict, value: str, low: str = "low", high: str = "high") -> str:
    return f"{ratio(row[value])} ({row[low]:.2f} to {row[high]:.2f})" if value in row else NOTHING


def peers(name: str) -> list[str]:
    measured = result(name)
    if measured is None:
        return []
    rows = [
        [row["stack"], f"failed: {row['failed']}", NOTHING, NOTHING, NOTHING, NOTHING]
        if "failed" in row
        else [
            row["stack"],
            seconds(row["seconds"]),
            interval(row, "speedup"),
            interval(row, "against_best_peer", "against_low", "against_high"),
            f"{row['rmse']:.2f}",
            seconds(row["ready_seconds"]),
        ]
        for row in measured["rows"]
    ]
    best = next((row["best_peer"] for row in measured["rows"] if "best_peer" in row), NOTHING)
    return [
        f"End to end, {measured['threads']} thread{'s' if measured['threads'] > 1 else ''}, "
        f"{measured['steps']} steps, guidance {measured['guidance']:g}, "
        f"{measured['rounds']} rounds in turns, each stack in its own process; rmse in grey "
        f"levels against diffusers' default on the same prompts and seeds. The best single "
        f"peer is {best}.",
        "",
        *table(
            ("stack", "a call", "speedup", "against the best peer", "rmse", "ready after"), rows
        ),
        "",
    ]


def verdicts() -> list[str]:
    """What `halftime verify baseline PLAN` said of the plans."""
    rows = []
    for plan in ("equivalent", "fewer-steps", "approximate"):
        verdict = record_of(f"fix_verdict_{plan}", Verdict)
        if verdict is None:
            continue
        values = {
            effect.metric: effect.value
            for effect in verdict.per_class
            if effect.content_class == "all"
        }
        deciding = [effect for effect in verdict.per_class if effect.decides]
        farthest = max(deciding, key=lambda effect: effect.floors)
        worst = f"{farthest.metric}, {farthest.content_class}: {farthest.floors:.2g}"
        rows.append(
            [
                f"`{plan}.toml`",
                str(verdict.pairs),
                verdict.verdict,
                f"{values['flip']:.4f}",
                f"{values['ms_ssim']:.5f}",
                f"{values['rmse']:.2f}",
                worst,
            ]
        )
    head = (
        "plan",
        "pairs",
        "verdict",
        "FLIP",
        "1 - MS-SSIM",
        "rmse",
        "the farthest, in noise floors (margin 3)",
    )
    return (
        ["What `halftime verify baseline PLAN` says of the plans:", "", *table(head, rows), ""]
        if rows
        else []
    )


def components() -> list[str]:
    measured = result("fix_components")
    if measured is None:
        return []
    rows = [
        [row["component"], row["stack"], f"failed: {row['failed']}", NOTHING, NOTHING, NOTHING]
        if "failed" in row
        else [
            row["component"],
            row["stack"],
            seconds(row["seconds"]),
            interval(row, "speedup"),
            f"{row['snr_db']:.0f} dB",
            seconds(row["ready_seconds"]),
        ]
        for row in measured["rows"]
    ]
    least, most = (pick(row["rounds"] for row in measured["rows"]) for pick in (min, max))
    threads = machine("fix_components").threads
    return [
        f"Components of true size with random weights, 256 px, {threads} thread, each stack in "
        f"turns with diffusers' fp32 module ({least} to {most} rounds); compare the speedups, "
        "since each stack had its own baseline:",
        "",
        *table(("component", "stack", "a call", "speedup", "signal to noise", "ready after"), rows),
        "",
    ]


def ledger() -> list[str]:
    measured = result("fix_ledger")
    if measured is None:
        return []
    rows = [
        [
            row["plan"],
            interval(row["text_first_over_steady"], "value"),
            share(row["small_share"]["value"]),
            share(row["small_share"]["high"]),
        ]
        for row in measured["rows"]
    ]
    return [
        "From `halftime profile` sessions in fresh processes: the first text encode over a "
        "steady one, and the share of the call that scheduler, the loop's glue and the progress "
        "bar take:",
        "",
        *table(
            ("plan", "first / steady text encode", "scheduler and glue", "at most (95 %)"), rows
        ),
        "",
    ]


def artefacts() -> list[str]:
    measured = result("fix_artefacts")
    if measured is None:
        return []
    rows = [
        [
            f"`{row['recipe']}`",
            seconds(row["without_seconds"]),
            seconds(row["with_seconds"]),
            interval(row, "ratio"),
            seconds(row["steady_seconds"]),
            size(row["file_bytes"]),
            seconds(row["saving_seconds"]),
        ]
        for row in measured["rows"]
    ]
    parts = [
        f"`{row['recipe']}`: "
        + ", ".join(f"{name} {seconds(spent)}" for name, spent in row["parts"].items())
        for row in measured["rows"]
    ]
    head = (
        "recipe",
        "without",
        "with artefacts",
        "ratio",
        "steady call",
        "file",
        "the run that saved it",
    )
    threads = measured["rows"][0]["threads"]
    pairs = min(row["rounds"] for row in measured["rows"])
    return [
        "First call of a fresh process with an empty temporary folder, the bundled model, "
        f"{measured['steps']} steps, {threads} thread, without and with saved compile artefacts "
        f"in turns ({pairs} pairs or more):",
        "",
        *table(head, rows),
        "",
        f"What is left with them, of the first call. {'; '.join(parts)}.",
        "",
    ]


def rewritten(page: str) -> str:
    lines = [
        *peers("fix_peers"),
        *peers("fix_peers_2_threads"),
        *verdicts(),
        *components(),
        *ledger(),
        *artefacts(),
    ]
    return between(page, "measured", lines[:-1])  # each part ends with an empty line


if __name__ == "__main__":
    update({PAGE: rewritten})
