"""LoRAs by name, from a listed folder: all are loaded at the start, and one is on for a call.

Those of `--lora` are on for every call, beside it. Beside a recipe they are swapped instead
(`lora_swaps`), since what is compiled knows one adapter.

Off, a LoRA's layers give what the layer under them gives, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from halftime.base.errors import BadInput
from halftime.base.extras import optional
from halftime.base.source import in_a_sentence
from halftime.pipeline.pretrained import adapters_of
from halftime.verbs.serve.lora_swaps import PLACE, LoraSwaps, open_swaps
from halftime.verbs.serve.messages import EngineSettings, Job

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class OfferedLoras(NamedTuple):
    """LoRAs by file name without its ending, each with the name of its adapter; `swaps` where they
    share one."""

    adapters: Mapping[str, str] = {}
    swaps: LoraSwaps | None = None


def load_loras(pipeline: DiffusionPipeline, settings: EngineSettings) -> OfferedLoras:
    """The folder's LoRAs; all are off, and those of `settings.lora` on. Raises BadInput where one
    cannot be offered."""
    if settings.loras is None:
        return OfferedLoras()
    if settings.recipe is not None and settings.lora:
        raise BadInput(
            "--loras, --lora and --recipe: beside a recipe there is place for one LoRA. Leave "
            "--lora out, or put its file into the folder of --loras."
        )
    optional("peft", "lora", "halftime serve --loras")
    folder = Path(settings.loras)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        raise BadInput(f"--loras {settings.loras}: there is no folder with *.safetensors there.")
    if not hasattr(pipeline, "load_lora_weights"):
        raise BadInput(f"--loras: {type(pipeline).__name__} takes no LoRA.")
    if settings.recipe is not None:
        swaps = open_swaps(pipeline, files, _load)
        return OfferedLoras(dict.fromkeys(swaps.loras, PLACE), swaps)
    # The adapter's name becomes part of a module's, which may hold no dot.
    adapters = {file.stem: f"offered_{number}" for number, file in enumerate(files)}
    for file in files:
        _load(pipeline, file, adapters[file.stem])
    _only(pipeline, always_on(settings))
    return OfferedLoras(adapters)


def always_on(settings: EngineSettings) -> dict[str, float]:
    """The adapters of `--lora`, and their weights."""
    return {name: weight for name, (_, weight) in adapters_of(settings.lora).items()}


def _load(pipeline: DiffusionPipeline, file: Path, adapter: str) -> None:
    try:
        pipeline.load_lora_weights(
            str(file.parent), weight_name=file.name, adapter_name=adapter, use_safetensors=True
        )
    # diffusers and peft raise what their code ran into
    except Exception as error:
        raise BadInput(f"--loras: {file.name} does not fit: {in_a_sentence(error)}") from error
    names = {name for names in pipeline.get_list_adapters().values() for name in names}
    if adapter not in names:
        raise BadInput(
            f"--loras: {file.name} changes nothing in {type(pipeline).__name__}: it is for another "
            "model."
        )


@contextmanager
def adapter_on(
    pipeline: DiffusionPipeline,
    loras: OfferedLoras,
    always: Mapping[str, float],
    job: Job,
) -> Iterator[None]:
    """The job's LoRA is on inside the block, beside those that always are, and no other."""
    if loras.swaps is not None:
        with loras.swaps.on(job.lora, job.lora_scale):
            yield
        return
    if job.lora is None:
        yield
        return
    _only(pipeline, {**always, loras.adapters[job.lora]: job.lora_scale})
    try:
        yield
    finally:
        _only(pipeline, always)


def _only(pipeline: DiffusionPipeline, weights: Mapping[str, float]) -> None:
    """These adapters are on, and no others."""
    if not weights:
        pipeline.disable_lora()
        return
    pipeline.set_adapters([*weights], [*weights.values()])
    pipeline.enable_lora()
