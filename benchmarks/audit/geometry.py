"""What `halftime audit` costs: the tiny pipeline, and the real geometry of SDXL and CogVideoX-2b.

Regime: fresh processes in turns, wall clock from start to exit and peak resident memory; real
geometries come from configurations alone, as published, without weights. Beside the tiny audit
stands its floor: a process that only imports torch, diffusers and transformers, loads the same
pipeline, and ends. Bars: tiny 3 s; SDXL at 1024 px 60 s and 2 GB; CogVideoX-2b 79 waits in 20
steps, the count published from an L40S (diffusers 14589).

    python -m benchmarks.audit.geometry [--rounds 5] [--out benchmarks/results/audit_geometry.json]

Prints a row for each; the last line is the result as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.frame import Frame
from benchmarks.fresh import ProcessCost, fresh_process
from halftime.base import units
from halftime.base.stats import median
from halftime.verbs.forecast.architectures import ARCHITECTURES

SDXL = {
    "unet": "sdxl_unet",
    "vae": "sdxl_vae",
    "text_encoder": "clip_l",
    "text_encoder_2": "clip_g",
}
COG = {"transformer": "cogvideox_2b", "vae": "cogvideox_vae", "text_encoder": "t5_xxl"}
LOAD = [sys.executable, "-c", "from halftime import bundled; bundled.load()"]


def folder_of(
    folder: Path,
    pipeline: str,
    networks: dict[str, str],
    without_weights: dict[str, tuple[str, str]],
) -> Path:
    """A diffusers folder that holds nothing but configurations. `networks` is the architecture by
    component, `without_weights` is (library, class) by component."""
    index: dict[str, object] = {"_class_name": pipeline, **without_weights}
    for component, network in networks.items():
        architecture = ARCHITECTURES[network]
        config = {**architecture.config, "_class_name": architecture.class_name}
        (folder / component).mkdir(parents=True)
        (folder / component / "config.json").write_text(json.dumps(config))
        index[component] = (architecture.library, architecture.class_name)
    scheduler = {"_class_name": without_weights["scheduler"][1]}
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def sdxl(folder: Path) -> list[str]:
    without_weights = {
        "scheduler": ("diffusers", "EulerDiscreteScheduler"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
    }
    model = folder_of(folder / "sdxl", "StableDiffusionXLPipeline", SDXL, without_weights)
    return [str(model), "--geometry", "real", "--size", "1024"]


def cogvideox(folder: Path) -> list[str]:
    without_weights = {
        "scheduler": ("diffusers", "CogVideoXDDIMScheduler"),
        "tokenizer": ("transformers", "T5Tokenizer"),
    }
    model = folder_of(folder / "cogvideox", "CogVideoXPipeline", COG, without_weights)
    settings = ["--set", "use_dynamic_cfg=true", "--set", "output_type=latent"]
    return [str(model), "--geometry", "real", *settings]


class Case(NamedTuple):
    """What comes after `halftime audit`, and the bars."""

    arguments: Callable[[Path], list[str]]
    most_seconds: float | None = None
    most_bytes: float | None = None
    waits: int | None = None


CASES = {
    "tiny (the bundled pipeline)": Case(lambda _: [], most_seconds=3.0),
    "SDXL, 1024 px": Case(sdxl, most_seconds=60.0, most_bytes=2e9),
    "CogVideoX-2b": Case(cogvideox, waits=79),
}
FLOOR = "only loading the bundled pipeline"


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--rounds", type=int, default=5)
    options = frame.parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answers = {case: folder / f"{index}.json" for index, case in enumerate(CASES)}
        commands = {FLOOR: LOAD} | {
            case: command_of(CASES[case].arguments(folder), answers[case]) for case in CASES
        }
        costs: dict[str, list[ProcessCost]] = {case: [] for case in commands}
        for _ in range(options.rounds):
            for case, command in commands.items():
                costs[case].append(fresh_process(command))
        rows = [row_of(FLOOR, costs[FLOOR])]
        for case, answer in answers.items():
            rows.append(audit_row(case, costs[case], json.loads(answer.read_text())))
    for row in rows:
        duration, size = units.seconds(row["seconds"]), units.size(row["peak_bytes"])
        print(f"{row['what']:36} {duration:>8} {size:>9} {row.get('waits_in_loop', '')}")
    frame.write({"rounds": options.rounds, "rows": rows})
    print(json.dumps(rows))


def command_of(arguments: list[str], answer: Path) -> list[str]:
    audit = [sys.executable, "-m", "halftime", "audit", *arguments]
    return [*audit, "--json", str(answer), "--quiet"]


def row_of(case: str, costs: list[ProcessCost]) -> dict[str, object]:
    return {
        "what": case,
        "seconds": median([cost.seconds for cost in costs]),
        "peak_bytes": max(cost.peak_bytes for cost in costs),
    }


def audit_row(case: str, costs: list[ProcessCost], audit: dict) -> dict[str, object]:
    """What was measured beside its bars."""
    _, most_seconds, most_bytes, waits = CASES[case]
    row = row_of(case, costs)
    row |= {
        "steps": audit["steps_seen"],
        "waits_in_loop": audit["in_loop_total"],
        "bar_seconds": most_seconds,
    }
    row["reached"] = (
        (most_seconds is None or row["seconds"] <= most_seconds)
        and (most_bytes is None or row["peak_bytes"] <= most_bytes)
        and (waits is None or audit["in_loop_total"] == waits)
    )
    return row


if __name__ == "__main__":
    main()
