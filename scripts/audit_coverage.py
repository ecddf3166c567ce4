"""Write docs/audit-coverage.md: every pipeline family that the tests can build, with its waits in
the denoising loop.

python scripts/audit_coverage.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import diffusers
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import halftime  # noqa: E402
from halftime.pipeline.load import scheduler_named  # noqa: E402
from halftime.records import Workload  # noqa: E402
from halftime.report.markdown import table  # noqa: E402
from halftime.report.model import Cell, Column, Table  # noqa: E402
from tiny_pipelines import FAMILIES, NOT_BUILT, PIPELINES  # noqa: E402

STEPS = 2  # Sana Sprint takes no other number
SCHEDULER_STEPS = 20
HEAD = f"""# Which pipelines wait, and where

Every pipeline family of diffusers {diffusers.__version__} that the tests can build with tiny random components, audited
for {STEPS} steps with its own scheduler on torch {torch.__version__.partition("+")[0]}. Counts that grow with depth
(waits inside a network's layers) are those of the tiny copy. Made by `python scripts/audit_coverage.py`.

"""  # noqa: E501


def row(name: str) -> list[Cell]:
    tiny = {**PIPELINES, **FAMILIES}[name]
    pipeline = tiny.build()
    kind, scheduler = type(pipeline).__name__, type(getattr(pipeline, "scheduler", None)).__name__
    try:
        found = halftime.audit(pipeline, Workload(steps=STEPS), **tiny.arguments(STEPS))
    except Exception as error:
        return [
            kind,
            scheduler,
            None,
            None,
            f"not audited: {type(error).__name__}: {str(error).splitlines()[0][:80]}",
        ]
    places = [
        f"{site.file.rpartition('/')[2]}:{site.line} ({site.count})"
        for site in found.sites
        if site.in_loop
    ]
    shown = ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
    return [kind, scheduler, found.in_loop_d2h, found.in_loop_h2d, shown or "none: capturable"]


def scheduler_table() -> Table:
    """Every scheduler that Stable Diffusion takes, in the same tiny pipeline."""
    rows = []
    for member in diffusers.schedulers.KarrasDiffusionSchedulers:
        tiny = PIPELINES["sd15"]
        pipeline = tiny.build()
        try:
            pipeline.scheduler = scheduler_named(member.name, pipeline)
            found = halftime.audit(
                pipeline, Workload(steps=SCHEDULER_STEPS), **tiny.arguments(SCHEDULER_STEPS)
            )
        except Exception as error:
            rows.append(
                (member.name, None, None, f"not audited: {str(error).splitlines()[0][:80]}")
            )
            continue
        places = [
            f"{site.file.rpartition('/')[2]}:{site.line} ({site.count})"
            for site in found.sites
            if site.in_loop
        ]
        rows.append(
            (
                member.name,
                found.in_loop_d2h,
                found.in_loop_h2d,
                ", ".join(places) or "none: capturable",
            )
        )
    columns = (
        Column("scheduler"),
        Column("host waits for device", "count"),
        Column("host waits for its copy", "count"),
        Column("where in the loop"),
    )
    return Table(
        columns,
        tuple(rows),
        title=f"StableDiffusionPipeline, {SCHEDULER_STEPS} steps, by scheduler",
    )


def main() -> None:
    diffusers.logging.set_verbosity_error()
    rows = tuple(tuple(row(name)) for name in {**PIPELINES, **FAMILIES})
    columns = (
        Column("pipeline"),
        Column("scheduler"),
        Column("host waits for device", "count"),
        Column("host waits for its copy", "count"),
        Column("where in the loop"),
    )
    missing = "\n".join(f"- {name}: {why}" for name, why in NOT_BUILT.items())
    text = (
        HEAD + table(Table(columns, rows)) + "\n\n## Not built, so not audited\n\n" + missing + "\n"
    )
    text += "\n" + table(scheduler_table()) + "\n"
    (ROOT / "docs" / "audit-coverage.md").write_text(text)


if __name__ == "__main__":
    main()
