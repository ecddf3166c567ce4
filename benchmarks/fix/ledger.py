"""Two ledger rows: the first text encode after a warm-up, scheduler and glue after the table.

Regime: the bundled model on this CPU, one thread unless OMP_NUM_THREADS says otherwise,
`halftime.profile` sessions, a fresh process for each session (a first call is only first once), the
cases in turns. Ceilings: a first call cannot be faster than a steady one (ratio 1); glue cannot be
less than nothing (share 0). Prints for each plan the first over the steady text encode, and the
share of the call that is neither denoiser nor VAE nor text encoder: scheduler, the loop's glue and
the progress bar.

    python -m benchmarks.fix.ledger --out benchmarks/results/fix_ledger.json
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import tempfile
from pathlib import Path

import halftime
from benchmarks.frame import Frame
from halftime import bundled
from halftime.base.stats import bootstrap
from halftime.base.store import read_json, write_json
from halftime.records import Session, Workload

TABLE = ["schedule-table", "progress-bar-off", "known-device"]
PLANS: dict[str, list[str]] = {
    "diffusers default": [],
    "text-warmup": ["text-warmup"],
    "schedule-table": ["schedule-table"],
    "schedule-table, progress-bar-off, known-device": TABLE,
    "the same, openvino": [*TABLE, "openvino"],
    "the same, openvino, text-warmup": [*TABLE, "openvino", "text-warmup"],
}
SMALL = ("scheduler", "glue", "progress_bar")


def session_of(plan: list[str]) -> Session:
    pipeline = bundled.load()
    workload = Workload(guidance=bundled.GUIDANCE)
    with halftime.applied(pipeline, plan), contextlib.redirect_stderr(io.StringIO()):
        return halftime.profile(pipeline, workload, runs=7, warmup=1, probes=False)


def numbers(session: Session) -> dict[str, float]:
    text, denoise = session.row("encode_prompt"), session.row("denoise")
    assert text is not None
    assert denoise is not None
    assert text.first_call_seconds is not None
    small = {
        part.stage: part.seconds / session.wall_seconds
        for part in denoise.parts
        if part.stage in SMALL
    }
    return {
        "text_first_over_steady": text.first_call_seconds / text.seconds,
        "text_seconds": text.seconds,
        "wall_seconds": session.wall_seconds,
        **{f"{name}_share": value for name, value in small.items()},
        "small_share": sum(small.values()),
    }


def row_of(plan: str, sessions: list[dict[str, float]]) -> dict[str, object]:
    row: dict[str, object] = {"plan": plan}
    for key in sessions[0]:
        row[key] = bootstrap([session.get(key, 0.0) for session in sessions])._asdict()
    return row


def sentence(row: dict) -> str:
    first, small = row["text_first_over_steady"], row["small_share"]
    return (
        f"{row['plan']:50s} text first/steady {first['value']:.2f} "
        f"({first['low']:.2f} to {first['high']:.2f})  "
        f"scheduler and glue {100 * small['value']:.2f} % of the call"
    )


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--rounds", type=int, default=5)
    frame.parser.add_argument(
        "--plan", help="measure one plan in this process into --session (used by the rounds)"
    )
    frame.parser.add_argument("--session", type=Path)
    options = frame.parse()
    if options.plan:
        write_json(options.session, session_of(PLANS[options.plan]))
        return
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in PLANS}
    with tempfile.TemporaryDirectory(prefix="halftime-ledger-") as folder:
        file = Path(folder) / "session.json"
        for _ in range(options.rounds):
            for name in PLANS:
                command = frame.itself("--plan", name, "--session", str(file))
                subprocess.run(command, check=True)
                measured[name].append(numbers(read_json(file, Session)))
    rows = [row_of(name, sessions) for name, sessions in measured.items()]
    for row in rows:
        print(sentence(row))
    frame.write({"rounds": options.rounds, "rows": rows})


if __name__ == "__main__":
    main()
