"""What `halftime audit` takes from the command line: tiny, and the real geometry of SDXL and
CogVideoX-2b.

Regime: fresh processes in turns, wall clock from start to exit and peak resident memory; real
geometries come from configurations alone, as published, without weights. Beside the tiny audit
stands its floor: a process that only imports torch, diffusers and transformers, loads the same
pipeline, and ends. Bars: tiny 3 s; SDXL at 1024 px 60 s and 2 GB; CogVideoX-2b 79 waits in 20
steps, the count published from an L40S (diffusers 14589).

    python benchmarks/audit_geometry.py [--rounds 5] [--out benchmarks/results/audit_geometry.json]

Prints a row for each; the last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from evidence import write
from fresh import Taken, fresh_process
from halftime.base import units
from halftime.base.stats import median
from halftime.pipeline.device import this_environment
from halftime.verbs.forecast.architectures import ARCHITECTURES

HERE = Path(__file__).parent
SDXL = {
    "unet": "sdxl_unet",
    "vae": "sdxl_vae",
    "text_encoder": "clip_l",
    "text_encoder_2": "clip_g",
}
COG = {"transformer": "cogvideox_2b", "vae": "cogvideox_vae", "text_encoder": "t5_xxl"}
LOAD = [sys.executable, "-c", "from halftime import bundled; bundled.load()"]


def folder_of(
    folder: Path, pipeline: str, networks: dict[str, str], rest: dict[str, tuple[str, str]]
) -> Path:
    """A diffusers folder that holds nothing but configurations. `rest` is (library, class) by
    component."""
    index: dict[str, object] = {"_class_name": pipeline, **rest}
    for name, network in networks.items():
        made = ARCHITECTURES[network]
        (folder / name).mkdir(parents=True)
        config = {**made.config, "_class_name": made.class_name}
        (folder / name / "config.json").write_text(json.dumps(config))
        index[name] = (made.library, made.class_name)
    scheduler = rest["scheduler"][1]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": scheduler})
    )
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def sdxl(folder: Path) -> list[str]:
    tokenizers = dict.fromkeys(("tokenizer", "tokenizer_2"), ("transformers", "CLIPTokenizer"))
    rest = {"scheduler": ("diffusers", "EulerDiscreteScheduler"), **tokenizers}
    made = folder_of(folder / "sdxl", "StableDiffusionXLPipeline", SDXL, rest)
    return [str(made), "--geometry", "real", "--size", "1024"]


def cogvideox(folder: Path) -> list[str]:
    rest = {
        "scheduler": ("diffusers", "CogVideoXDDIMScheduler"),
        "tokenizer": ("transformers", "T5Tokenizer"),
    }
    made = folder_of(folder / "cogvideox", "CogVideoXPipeline", COG, rest)
    return [
        str(made),
        "--geometry",
        "real",
        "--set",
        "use_dynamic_cfg=true",
        "--set",
        "output_type=latent",
    ]


# name -> its words after `halftime audit`, and its bars in seconds, bytes and waits
CASES: dict[str, tuple[Callable[[Path], list[str]], float | None, float | None, int | None]] = {
    "tiny (the bundled pipeline)": (lambda _: [], 3.0, None, None),
    "SDXL, 1024 px": (sdxl, 60.0, 2e9, None),
    "CogVideoX-2b": (cogvideox, None, None, 79),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    place = this_environment()
    rows = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        commands = {"only loading the bundled pipeline": LOAD}
        for name, (words, *_) in CASES.items():
            answer = str(folder / f"{len(commands)}.json")
            commands[name] = [
                sys.executable,
                "-m",
                "halftime",
                "audit",
                *words(folder),
                "--json",
                answer,
                "--quiet",
            ]
        taken: dict[str, list[Taken]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                taken[name].append(fresh_process(command))
        for name, command in commands.items():
            answer = command[-2]
            rows.append(
                row(
                    name,
                    taken[name],
                    json.loads(Path(answer).read_text()) if name in CASES else None,
                )
            )
    if options.out:
        write(options.out, "audit_geometry", {"rounds": options.rounds, "rows": rows}, place)
    print(json.dumps(rows))


def row(name: str, taken: list[Taken], audit: dict | None) -> dict[str, object]:
    """What was measured beside its bars, where it has any."""
    seconds, peak = median([each.seconds for each in taken]), max(each.peak_bytes for each in taken)
    made: dict[str, object] = {"what": name, "seconds": seconds, "peak_bytes": peak}
    if audit:
        _, most_seconds, most_bytes, waits = CASES[name]
        made |= {
            "steps": audit["steps_seen"],
            "waits_in_loop": audit["in_loop_total"],
            "bar_seconds": most_seconds,
        }
        made["reached"] = (
            (most_seconds is None or seconds <= most_seconds)
            and (most_bytes is None or peak <= most_bytes)
            and (waits is None or audit["in_loop_total"] == waits)
        )
    print(
        (
            f"{name:36} {units.seconds(seconds):>8} {units.size(peak):>9} "
            f"{made.get('waits_in_loop', '')}"
        ),
        flush=True,
    )
    return made


if __name__ == "__main__":
    main()
