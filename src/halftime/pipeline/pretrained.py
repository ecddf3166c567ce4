"""Load a pipeline from files: a diffusers folder, a hub id, one checkpoint, a modular pipeline; and
what is loaded on top of it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import DiffusionPipeline

from halftime.base.errors import BadFile, BadInput, MissingExtra, UnknownModel, first_line
from halftime.base.extras import install, install_package
from halftime.pipeline.change import logging_at_least
from halftime.pipeline.random_weights import random_weights_refused
from halftime.records import Workload
from halftime.upstream import hugging_face

if TYPE_CHECKING:
    from diffusers import ModularPipeline

CHECKPOINTS = (".safetensors", ".ckpt", ".pt", ".pth", ".gguf")
INDEX, MODULAR_INDEX = "model_index.json", "modular_model_index.json"
# What diffusers and transformers call a file of weights: 'model.fp16-00001-of-00002.safetensors'.
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[A-Za-z]\w*))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
)
# What loading raises for files that are broken, of another kind, or need what is not installed.
_FAILURES = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError)


def load_folder(folder: Path, workload: Workload) -> DiffusionPipeline:
    """A folder that `save_pretrained` wrote, of either kind. Raises UnknownModel."""
    if (folder / INDEX).is_file():
        _check_variant(folder, workload.variant)
        with _explained(str(folder)), _bars_on_a_terminal_alone():
            return DiffusionPipeline.from_pretrained(
                folder, local_files_only=True, **_keywords(workload)
            )
    if (folder / MODULAR_INDEX).is_file():
        with _explained(str(folder)), _bars_on_a_terminal_alone():
            return _modular(str(folder), workload)
    raise UnknownModel(
        f"{folder} is not a diffusers pipeline: it has no {INDEX}. Name a folder that "
        "pipeline.save_pretrained() wrote."
    )


def load_hub(name: str, workload: Workload) -> DiffusionPipeline:
    """A hub id, cached or fetched by diffusers. Raises UnknownModel."""
    try:
        with random_weights_refused(name), _bars_on_a_terminal_alone():
            return DiffusionPipeline.from_pretrained(
                name, **_keywords(workload), **_present(revision=workload.revision)
            )
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            return _modular(name, workload)
        revision = f" in revision {workload.revision!r}" if workload.revision else ""
        raise UnknownModel(
            f"{name!r} is not a folder here, and the hub did not give it{revision}: "
            f"{first_line(error)} Name a folder, a cached hub id or module:function."
        ) from error


def _keywords(workload: Workload) -> dict[str, object]:
    """Of `from_pretrained`: the dtype at load time, so that nothing is held twice."""
    custom = workload.custom_pipeline
    return _present(
        variant=workload.variant,
        custom_pipeline=custom,
        trust_remote_code=custom and True,  # whoever names the code asks for it
        **_dtype(workload),
    )


def _dtype(workload: Workload) -> dict[str, object]:
    if workload.dtype is None:
        return {}
    return {hugging_face.dtype_keyword(): getattr(torch, workload.dtype)}


def _present(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _modular(name: str, workload: Workload) -> ModularPipeline:
    """Blocks, and the components that their index names."""
    kind = getattr(diffusers, "ModularPipeline", None)
    if kind is None:
        raise UnknownModel(f"{name} is a modular pipeline; this diffusers has none. Upgrade it.")
    pipeline = kind.from_pretrained(name, **_present(revision=workload.revision))
    sourced = {name for name in pipeline.pretrained_component_names if _has_source(pipeline, name)}
    pipeline.load_components(**_dtype(workload), **_present(variant=workload.variant))
    missing = sorted(sourced & {*pipeline.null_component_names})
    if missing:
        raise UnknownModel(
            f"{name} cannot be loaded: its {', '.join(missing)} could not. Look at "
            f"{MODULAR_INDEX}, which says where each component comes from; --debug shows why."
        )
    return pipeline


def _has_source(pipeline: ModularPipeline, name: str) -> bool:
    """Whether the index says where the component comes from: optional ones need not."""
    spec = pipeline.get_component_spec(name)
    return bool(getattr(spec, "pretrained_model_name_or_path", None) or getattr(spec, "repo", None))


# ---- variants of a folder's weights


def _check_variant(folder: Path, variant: str | None) -> None:
    """Raises UnknownModel where a component has weights, and none of the variant asked for."""
    variants = {component: _variants(component) for component in _with_weights(folder)}
    if variant is not None:
        if variants and not any(variant in names for names in variants.values()):
            raise UnknownModel(
                f"{folder} has no weights of the variant {variant!r}; it has: "
                f"{', '.join(sorted(map(_word, set().union(*variants.values()))))}."
            )
        return
    for component, names in variants.items():
        if names and None not in names:
            chosen = min(str(name) for name in names)
            raise UnknownModel(
                f"{folder} holds weights of the variant {chosen!r} alone (in {component.name}). "
                f"Add --variant {chosen}, and --dtype float16 to compute in it."
                if chosen == "fp16"
                else f"{folder} holds weights of the variant {chosen!r} alone (in "
                f"{component.name}). Add --variant {chosen}."
            )


def _with_weights(folder: Path) -> Iterator[Path]:
    return (part for part in sorted(folder.iterdir()) if part.is_dir() and _variants(part))


def _variants(component: Path) -> set[str | None]:
    matches = (_WEIGHTS.fullmatch(file.name) for file in component.iterdir())
    return {match["variant"] for match in matches if match is not None}


def _word(variant: str | None) -> str:
    return "weights without a variant" if variant is None else variant


# ---- one checkpoint


def load_checkpoint(file: Path, workload: Workload) -> DiffusionPipeline:
    """A whole pipeline in one file, as model exchanges offer it. What it is made of comes from the
    folder `workload.config`, or from the hub. Raises UnknownModel."""
    if not file.is_file():
        raise UnknownModel(f"there is no file {file}.")
    index = _index_of(file, workload.config)
    name = str(index.get("_class_name", ""))
    kind = getattr(diffusers, name, None)
    if not hasattr(kind, "from_single_file"):
        raise UnknownModel(
            f"{file} cannot be loaded as {name or 'a pipeline'}: diffusers loads that class from "
            "folders alone. Name a function instead, as module:function."
        )
    config = {} if workload.config is None else {"config": workload.config}
    local = workload.config is not None
    with _explained(str(file)), _bars_on_a_terminal_alone():
        return kind.from_single_file(  # type: ignore[union-attr]
            str(file), local_files_only=local, **config, **_dtype(workload)
        )


def _index_of(file: Path, config: str | None) -> dict[str, object]:
    """The pipeline's index: of the folder, or of the repository that the weights look like."""
    if config is not None:
        index = Path(config) / INDEX
        try:
            return dict(json.loads(index.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UnknownModel(
                f"--config {config} does not say what {file} is made of: it has no readable "
                f"{INDEX}. Name the folder of a diffusers pipeline of the same kind; its weights "
                "are not needed."
            ) from error
    repository = _repository_of(file)
    try:
        return dict(DiffusionPipeline.load_config(repository))
    except (OSError, ValueError) as error:
        raise UnknownModel(
            f"{file} holds weights and does not say what they are part of. They look like "
            f"{repository}, which the hub did not give ({first_line(error).rstrip('.')}). Give a "
            "folder with the configuration: --config FOLDER."
        ) from error


def _repository_of(file: Path) -> str:
    with _explained(str(file)):
        return hugging_face.repository_of_checkpoint(str(file))


# ---- what is loaded on top


def load_loras(pipeline: DiffusionPipeline, specs: Sequence[str]) -> tuple[str, ...]:
    """Load each FILE or FILE:WEIGHT and put it on; returns a note for each. Raises BadFile or
    MissingExtra."""
    if not specs:
        return ()
    if importlib.util.find_spec("peft") is None:
        raise MissingExtra("peft", "--lora", install("lora"))
    if not hasattr(pipeline, "load_lora_weights"):
        raise BadInput(
            f"{type(pipeline).__name__} takes no LoRA: it has no load_lora_weights(). Fuse it into "
            "the weights, and save those."
        )
    adapters = adapters_of(specs)
    for name, (file, _) in adapters.items():
        _load_lora(pipeline, file, name)
    pipeline.set_adapters([*adapters], adapter_weights=[weight for _, weight in adapters.values()])
    return tuple(f"LoRA {file} at weight {weight:g}" for file, weight in adapters.values())


def adapters_of(specs: Sequence[str]) -> dict[str, tuple[str, float]]:
    """The name of each one's adapter -> its file and weight."""
    return {f"lora_{number}": parse_lora(spec) for number, spec in enumerate(specs, 1)}


def parse_lora(spec: str) -> tuple[str, float]:
    """'style.safetensors:0.8' -> the file and its weight, 1 where none is named."""
    file, colon, weight = spec.rpartition(":")
    if colon and not Path(spec).exists():
        with contextlib.suppress(ValueError):
            return file, float(weight)
    return spec, 1.0


def _load_lora(pipeline: DiffusionPipeline, file: str, name: str) -> None:
    path = Path(file)
    if not path.exists():
        raise BadFile(f"there is no LoRA file {file}. Write --lora FILE or --lora FILE:WEIGHT.")
    # Offline, diffusers 0.35 asks for the name of a file apart from its folder.
    folder, named = (path.parent, {"weight_name": path.name}) if path.is_file() else (path, {})
    try:
        # it logs each layer that does not fit
        with logging_at_least(diffusers.utils.logging, logging.CRITICAL):
            pipeline.load_lora_weights(
                str(folder), adapter_name=name, local_files_only=True, **named
            )
    except _FAILURES as error:
        lines = str(error).strip().splitlines()[:2]
        raise BadFile(
            f"{file} is no LoRA that {type(pipeline).__name__} can take: "
            f"{' '.join(line.strip() for line in lines)}"
        ) from error
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    if not any(name in hugging_face.loaded_adapters(module) for module in modules):
        raise BadFile(
            f"{file} is no LoRA that {type(pipeline).__name__} can take: it names none of its "
            "layers."
        )


# ---- failing

# Words of an error -> which versions do not go together, and what to install.
_KNOWN_CLASHES = {
    "'CLIPTextModel' object has no attribute 'text_model'": (
        "diffusers before 0.39 cannot fill the CLIP of transformers 5.6 and newer from one file "
        "(diffusers issue 13833): pip install 'diffusers>=0.39'."
    ),
}


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    """What the libraries say of a source that cannot be loaded, in one sentence; or that it was not
    loaded whole."""
    try:
        with random_weights_refused(source):
            yield
    except _FAILURES as error:
        raise UnknownModel(_why(source, error)) from error


def _why(source: str, error: Exception) -> str:
    if "has not been imported" in str(error):
        sentence = first_line(error).partition(". ")[0].rstrip(".")
        return (
            f"{source} holds a component of your own: {sentence}. Name a function instead, as "
            "module:function, that imports it and returns the pipeline."
        )
    absent = [name for name in ("accelerate",) if importlib.util.find_spec(name) is None]
    also = "".join(
        f" The package {name!r} is not installed, and most of diffusers' newer families need it "
        f"to load: {install_package(name)}."
        for name in absent
    )
    text = first_line(error)
    also += "".join(f" {cure}" for words, cure in _KNOWN_CLASHES.items() if words in text)
    return f"{source} cannot be loaded as a diffusers pipeline: {text.rstrip('.')}.{also}"


@contextlib.contextmanager
def _bars_on_a_terminal_alone() -> Iterator[None]:
    """The libraries draw their loading bars into logs and files, too."""
    modules = (diffusers.utils.logging, transformers.utils.logging)
    showing = [
        module for module in modules if module.is_progress_bar_enabled() and not sys.stderr.isatty()
    ]
    for module in showing:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in showing:
            module.enable_progress_bar()
