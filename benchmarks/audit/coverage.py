"""Write docs/audit-coverage.md: the waits of every pipeline family that the tests can build.

python -m benchmarks.audit.coverage
"""

from __future__ import annotations

import sys
from pathlib import Path

import diffusers
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import halftime  # noqa: E402
from halftime.pipeline.load import scheduler_named  # noqa: E402
from halftime.records import Workload  # noqa: E402
from halftime.records.audit import Audit  # noqa: E402
from halftime.report.markdown import table  # noqa: E402
from halftime.report.model import Cell, Column, Table  # noqa: E402
from tiny_pipelines import FAMILIES, NOT_BUILT, PIPELINES  # noqa: E402

STEPS = 2  # Sana Sprint takes no other number
SCHEDULER_STEPS = 20
PAGE = ROOT / "docs" / "audit-coverage.md"
HEAD = f"""# Which pipelines wait, and where

Every pipeline family of diffusers {diffusers.__version__} that the tests can build with tiny random components, audited
for {STEPS} steps with its own scheduler on torch {torch.__version__.partition("+")[0]}. Counts that grow with depth
(waits inside a network's layers) are those of the tiny copy. Written by `python -m benchmarks.audit.coverage`.

"""  # noqa: E501
WAITS = (
    Column("host waits for device", "count"),
    Column("host waits for its copy", "count"),
    Column("where in the loop"),
)


def pipeline_row(name: str) -> tuple[Cell, ...]:
    """A pipeline family: its classes, how often it waits, and the first three places."""
    tiny = {**PIPELINES, **FAMILIES}[name]
    pipeline = tiny.build()
    classes = type(pipeline).__name__, type(getattr(pipeline, "scheduler", None)).__name__
    try:
        audit = halftime.audit(pipeline, Workload(steps=STEPS), **tiny.arguments(STEPS))
    except Exception as error:
        return (*classes, *not_audited(error, f"{type(error).__name__}: "))
    return (*classes, *waits(audit, most=3))


def scheduler_row(name: str) -> tuple[Cell, ...]:
    """A scheduler that Stable Diffusion takes, in the same tiny pipeline."""
    tiny = PIPELINES["sd15"]
    pipeline = tiny.build()
    workload = Workload(steps=SCHEDULER_STEPS)
    try:
        pipeline.scheduler = scheduler_named(name, pipeline)
        audit = halftime.audit(pipeline, workload, **tiny.arguments(SCHEDULER_STEPS))
    except Exception as error:
        return (name, *not_audited(error))
    return (name, *waits(audit))


def waits(audit: Audit, most: int | None = None) -> tuple[Cell, ...]:
    """How often the loop waits, and where; `most` is the number of places to name."""
    places = [
        f"{site.file.rpartition('/')[2]}:{site.line} ({site.count})"
        for site in audit.sites
        if site.in_loop
    ]
    text = ", ".join(places[:most]) or "none: capturable"
    if most is not None and len(places) > most:
        text += f" and {len(places) - most} more"
    return audit.in_loop_d2h, audit.in_loop_h2d, text


def not_audited(error: Exception, kind: str = "") -> tuple[Cell, ...]:
    return None, None, f"not audited: {kind}{str(error).splitlines()[0][:80]}"


def page() -> str:
    pipelines = Table(
        (Column("pipeline"), Column("scheduler"), *WAITS),
        tuple(pipeline_row(name) for name in {**PIPELINES, **FAMILIES}),
    )
    schedulers = Table(
        (Column("scheduler"), *WAITS),
        tuple(
            scheduler_row(member.name) for member in diffusers.schedulers.KarrasDiffusionSchedulers
        ),
        title=f"StableDiffusionPipeline, {SCHEDULER_STEPS} steps, by scheduler",
    )
    not_built = "\n".join(f"- {name}: {reason}" for name, reason in NOT_BUILT.items())
    parts = (HEAD + table(pipelines), "## Not built, so not audited", not_built, table(schedulers))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    diffusers.logging.set_verbosity_error()
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
