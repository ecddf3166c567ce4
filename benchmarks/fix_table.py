"""The tables of docs/fix.md, from benchmarks/results/fix_*.json.

python benchmarks/fix_table.py           rewrites what stands between the markers; with --check it
only says whether
                                         they are up to date
"""

from __future__ import annotations

from pathlib import Path

from halftime.base.units import NOTHING, ratio, seconds, share, size
from halftime.records.verdict import Verdict
from tables import machine, measured, placed, result, table, update

DOCS = Path(__file__).parent.parent / "docs" / "fix.md"
START, END = "<!-- measured -->", "<!-- end of measured -->"


def interval(row: dict, middle: str, low: str = "low", high: str = "high") -> str:
    return f"{ratio(row[middle])} ({row[low]:.2f} to {row[high]:.2f})" if middle in row else NOTHING


def peers(name: str) -> list[str]:
    found = result(name)
    if found is None:
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
        for row in found["rows"]
    ]
    best = next((row["best_peer"] for row in found["rows"] if "best_peer" in row), NOTHING)
    return [
        f"End to end, {found['threads']} thread{'s' if found['threads'] > 1 else ''}, "
        f"{found['steps']} steps, guidance "
        f"{found['guidance']:g}, {found['rounds']} rounds in turns, each stack in a process of "
        "its own; rmse in grey "
        "levels against diffusers' default on the same prompts and seeds. The best single "
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
        found = measured(f"fix_verdict_{plan}", Verdict)
        if found is None:
            continue
        every = {each.metric: each.value for each in found.per_class if each.content_class == "all"}
        farthest = max(
            (each for each in found.per_class if each.decides), key=lambda each: each.floors
        )
        worst = f"{farthest.metric}, {farthest.content_class}: {farthest.floors:.2g}"
        rows.append(
            [
                f"`{plan}.toml`",
                str(found.pairs),
                found.verdict,
                f"{every['flip']:.4f}",
                f"{every['ms_ssim']:.5f}",
                f"{every['rmse']:.2f}",
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
    found = result("fix_components")
    if found is None:
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
        for row in found["rows"]
    ]
    least, most = (pick(row["rounds"] for row in found["rows"]) for pick in (min, max))
    threads = machine("fix_components").threads
    return [
        f"Components of true size with random weights, 256 px, {threads} thread, each stack in "
        f"turns with diffusers' fp32 module ({least} to {most} rounds); compare the speedups, "
        "since each "
        "stack had a baseline of its own:",
        "",
        *table(("component", "stack", "a call", "speedup", "signal to noise", "ready after"), rows),
        "",
    ]


def ledger() -> list[str]:
    found = result("fix_ledger")
    if found is None:
        return []
    rows = [
        [
            row["plan"],
            interval(row["text_first_over_steady"], "value"),
            share(row["small_share"]["value"]),
            share(row["small_share"]["high"]),
        ]
        for row in found["rows"]
    ]
    return [
        "From `halftime profile` sessions in fresh processes: the first text encode over a "
        "steady one, and the share "
        "of the call that scheduler, the loop's glue and the progress bar take:",
        "",
        *table(
            ("plan", "first / steady text encode", "scheduler and glue", "at most (95 %)"), rows
        ),
        "",
    ]


def artefacts() -> list[str]:
    found = result("fix_artefacts")
    if found is None:
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
        for row in found["rows"]
    ]
    left = [
        f"`{row['recipe']}`: "
        + ", ".join(f"{name} {seconds(spent)}" for name, spent in row["parts"].items())
        for row in found["rows"]
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
    return [
        "First call of a fresh process with an empty temporary folder, the bundled model, "
        f"{found['steps']} steps, "
        f"{found['rows'][0]['threads']} thread, without and with saved compile artefacts in turns "
        f"({min(row['rounds'] for row in found['rows'])} pairs or more):",
        "",
        *table(head, rows),
        "",
        f"What is left with them, of the first call. {'; '.join(left)}.",
        "",
    ]


def made(page: str) -> str:
    lines = [
        *peers("fix_peers"),
        *peers("fix_peers_2_threads"),
        *verdicts(),
        *components(),
        *ledger(),
        *artefacts(),
    ]
    return placed(page, START, END, lines[:-1])  # each part ends with an empty line


if __name__ == "__main__":
    update(DOCS, made)
