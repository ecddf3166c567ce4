"""Two lines of the ledger: the text encoders' first call after a warm-up, and the scheduler and
glue after the table.

Regime: the bundled model on this CPU, one thread unless OMP_NUM_THREADS says otherwise,
`halftime.profile` sessions, a fresh process for each session (a first call is only first once), the
cases in turns. Ceilings: a first call cannot be faster than a steady one (ratio 1); glue cannot be
less than nothing (share 0). Prints for each plan the first over the steady text encode, and the
share of the call that is neither denoiser nor VAE nor text encoder: scheduler, the loop's glue and
the progress bar.

    python benchmarks/fix_ledger.py --output benchmarks/results/fix_ledger.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import halftime
from evidence import write
from halftime import bundled
from halftime.base.stats import bootstrap
from halftime.base.store import read_json, write_json
from halftime.records import Session, Workload

EQUIVALENT = str(Path(__file__).parent / "peers" / "plans" / "equivalent.toml")
PLANS: dict[str, str | list[str]] = {
    "diffusers default": [],
    "text-warmup": ["text-warmup"],
    "schedule-table": ["schedule-table"],
    "schedule-table, progress-bar-off, known-device": [
        "schedule-table",
        "progress-bar-off",
        "known-device",
    ],
    "the same, openvino": ["schedule-table", "progress-bar-off", "known-device", "openvino"],
    "the same, openvino, text-warmup": [
        "schedule-table",
        "progress-bar-off",
        "known-device",
        "openvino",
        "text-warmup",
    ],
}
SMALL = ("scheduler", "glue", "progress_bar")


def session(plan: str | list[str]) -> Session:
    pipeline = bundled.load()
    workload = Workload(guidance=bundled.GUIDANCE)
    with halftime.applied(pipeline, plan), contextlib.redirect_stderr(io.StringIO()):
        return halftime.profile(pipeline, workload, runs=7, warmup=1, probes=False)


def numbers(found: Session) -> dict[str, float]:
    text, denoise = found.row("encode_prompt"), found.row("denoise")
    assert text is not None
    assert denoise is not None
    assert text.first_call_seconds is not None
    small = {
        part.stage: part.seconds / found.wall_seconds
        for part in denoise.parts
        if part.stage in SMALL
    }
    return {
        "text_first_over_steady": text.first_call_seconds / text.seconds,
        "text_seconds": text.seconds,
        "wall_seconds": found.wall_seconds,
        **{f"{name}_share": value for name, value in small.items()},
        "small_share": sum(small.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--plan", help="measure one plan in this process into --session (used by the rounds)"
    )
    parser.add_argument("--session", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.plan:
        write_json(options.session, session(PLANS[options.plan]))
        return
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in PLANS}
    with tempfile.TemporaryDirectory(prefix="halftime-ledger-") as folder:
        file = Path(folder) / "session.json"
        for _ in range(options.rounds):
            for name in PLANS:
                subprocess.run(
                    [sys.executable, __file__, "--plan", name, "--session", str(file)], check=True
                )
                measured[name].append(numbers(read_json(file, Session)))
    rows = []
    for name, found in measured.items():
        row: dict[str, object] = {"plan": name}
        for key in found[0]:
            middle = bootstrap([each.get(key, 0.0) for each in found])
            row[key] = {"value": middle.value, "low": middle.low, "high": middle.high}
        rows.append(row)
        first, small = row["text_first_over_steady"], row["small_share"]
        print(
            f"{name:50s} text first/steady {first['value']:.2f} ({first['low']:.2f} to "
            f"{first['high']:.2f})  "  # type: ignore[index]
            f"scheduler and glue {100 * small['value']:.2f} % of the call"
        )  # type: ignore[index]
    if options.output:
        write(options.output, "fix_ledger", {"rounds": options.rounds, "rows": rows})


if __name__ == "__main__":
    main()
