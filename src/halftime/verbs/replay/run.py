"""`halftime replay`: run a report's workload again, here, and say what explains the difference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from halftime.base.errors import BadInput
from halftime.base.progress import Progress, silent
from halftime.base.stats import unpaired_ratio
from halftime.base.store import read_report
from halftime.pipeline.load import load
from halftime.pipeline.workload import change
from halftime.records import Session
from halftime.records.replay import Difference, Replay
from halftime.verbs.profile.call import quiet_progress_bars
from halftime.verbs.profile.compare import differences
from halftime.verbs.profile.run import ProfileSettings, measure

# The first prefix that fits says what a difference means for the time.
_MEANINGS = (
    ("pipeline", "another pipeline: nothing below compares like with like"),
    ("workload.device", "another device"),
    ("workload.dtype", "another precision"),
    ("workload", "another workload: more steps, pixels or pictures take longer anyway"),
    ("environment.device_name", "another device: every stage runs on other hardware"),
    ("environment.device", "another device: every stage is affected"),
    (
        "environment.processor",
        "another processor: on a CPU every stage is affected, on a GPU what the host issues",
    ),
    ("environment.cores", "another number of cores"),
    (
        "environment.threads",
        "another number of torch threads: on a CPU denoiser and VAE scale with it",
    ),
    ("environment.versions.torch", "another torch: kernels and their choice differ"),
    ("environment.versions.cuda", "another CUDA: kernels and libraries differ"),
    ("environment.versions.cudnn", "another cuDNN: convolutions, and so the VAE, differ"),
    (
        "environment.versions.diffusers",
        "another diffusers: the loop around the components may differ",
    ),
    ("environment.versions.transformers", "another transformers: text encoders may differ"),
    ("environment.versions.python", "another Python: matters where a stage is launch-bound"),
    (
        "environment.settings.OMP_WAIT_POLICY",
        "idle OpenMP threads spin or sleep: large on a busy machine",
    ),
    ("environment.settings.OMP", "another OpenMP setting: matters on a CPU"),
    ("environment.settings", "another setting that is known to change speed"),
)


def read(path: Path | str) -> Session:
    """The session in a report: an HTML page or a JSON file of `profile`. Raises BadFile or
    BadInput."""
    session = read_report(path, Session)
    if session.kind == "trace":
        raise BadInput(
            f"{path} was read from a trace, which does not say how the pipeline was called. "
            "Give the page or the JSON of a `halftime profile`."
        )
    return session


def replay(
    session: Session,
    *,
    model: str | None = None,
    device: str | None = None,
    source: Mapping[str, object] | None = None,
    settings: ProfileSettings | None = None,
    progress: Progress = silent,
) -> Replay:
    """Run the session's workload again, as often as it was run then.

    `model`, `device` and `source`, how the model is loaded by the fields of a workload, replace
    those of the session, where they have other names here; `settings` says how often to run.
    Raises HalftimeError.
    """
    elsewhere = {"device": device} if device else {}
    workload = change(session.workload, {**(source or {}), **elsewhere})
    progress("loading", 0, 1)
    loaded = load(model or model_of(session), workload)
    settings = settings or ProfileSettings(runs=max(1, len(session.runs)))
    with quiet_progress_bars(loaded.pipeline):
        return compared(session, measure(loaded, workload, settings, progress=progress))


def model_of(session: Session) -> str:
    """How to load the session's model here. Raises BadInput where its name is not enough."""
    if session.model_argument is not None:
        return session.model_argument
    raise BadInput(
        f"this session was measured from Python on a {session.pipeline}, which does not say where "
        "its weights are. Name the model: --model FOLDER, a hub id, or module:function."
    )


def compared(then: Session, now: Session) -> Replay:
    """Both sessions with what differs between them, field by field and stage by stage."""
    interval = unpaired_ratio(_walls(then), _walls(now))
    changed = [
        Difference(field=field, then=before, now=after, meaning=meaning(field))
        for field, (before, after) in differences(then, now).items()
    ]
    return Replay(
        then=then,
        now=now,
        speedup=interval.value,
        low=interval.low,
        high=interval.high,
        differences=tuple(sorted(changed, key=lambda difference: _rank(difference.field))),
        stages=_speedups(then, now),
    )


def _walls(session: Session) -> list[float]:
    return [run.wall_seconds for run in session.runs] or [session.wall_seconds]


def _speedups(then: Session, now: Session) -> dict[str, float]:
    """Stage -> seconds then / seconds now, where both have it."""
    speedups: dict[str, float] = {}
    for before in then.ledger:
        after = now.row(before.stage)
        if after is not None and before.seconds > 0 and after.seconds > 0:
            speedups[before.stage] = before.seconds / after.seconds
    return speedups


def meaning(field: str) -> str:
    """What a difference in this field does to the time."""
    return next((words for prefix, words in _MEANINGS if field.startswith(prefix)), "")


def _rank(field: str) -> int:
    return next(
        (rank for rank, (prefix, _) in enumerate(_MEANINGS) if field.startswith(prefix)),
        len(_MEANINGS),
    )
