"""From MODEL to the components of a pipeline: a built-in name, a folder, or a cached hub id.

Only configurations are read, never weights.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from halftime.base.errors import BadFile, UnknownModel
from halftime.base.store import read_bytes
from halftime.records import Json, Record
from halftime.records.session import BUNDLED
from halftime.records.stages import place_of
from halftime.verbs.forecast.architectures import ARCHITECTURES, canonical
from halftime.verbs.forecast.components import knows
from halftime.verbs.forecast.presets import PRESETS, preset_named

_ROLES = {"text_encoder": "text_encoder", "denoiser": "denoiser", "vae": "vae"}
# A text encoder's tokens where the folder's tokenizer does not say.
_TOKENS = {"T5EncoderModel": 512, "UMT5EncoderModel": 512, "Gemma2Model": 300}
# Latent cells times this are pixels, where a denoiser's `sample_size` counts cells.
_FACTOR = {"SanaTransformer2DModel": 32}
# Denoisers distilled or embedding their guidance run on one row a picture.
_UNGUIDED = ("FluxTransformer2DModel", "Flux2Transformer2DModel")


class Component(Record, frozen=True, kw_only=True):
    """One network of a pipeline."""

    name: str
    role: str  # 'denoiser', 'vae' or 'text_encoder'
    library: str
    class_name: str
    config: dict[str, Json]
    tokens: int = 0


class Model(Record, frozen=True, kw_only=True):
    """A pipeline as a forecast needs it: its networks, and its defaults."""

    name: str
    components: tuple[Component, ...]
    width: int
    height: int
    steps: int
    guidance: bool
    dtype: str
    vae_dtype: str | None = None
    frames: int = 1
    denoiser_tokens: int = 0
    notes: tuple[str, ...] = ()


def resolve(name: str | None, *, config: str | None = None, revision: str | None = None) -> Model:
    """The model of that name. Raises UnknownModel, naming the nearest built-in ones.

    `config` is the folder that says what a checkpoint in one file is; `revision` is of a hub id.
    """
    if name is not None and Path(name).is_file():
        return _checkpoint(name, config)
    if name is None or name == BUNDLED:
        return _bundled()
    if Path(name).is_dir():
        return _folder(Path(name), name)
    preset = preset_named(name)
    if preset:
        return _preset(preset)
    architecture = canonical(name)
    if architecture:
        return _single(architecture)
    cached = _cached(name, revision)
    if cached:
        return _folder(cached, name)
    if ":" in name:
        raise UnknownModel(
            f"{name!r} is a function, and forecast reads configurations without running anything. "
            "Write them once with pipeline.save_pretrained(FOLDER), then forecast FOLDER."
        )
    near = difflib.get_close_matches(name.lower(), [*PRESETS, *ARCHITECTURES], n=4, cutoff=0.4)
    raise UnknownModel(
        f"{name!r} is not a built-in model, a folder with a model_index.json, or a hub id in the "
        f"cache. Nearest: {', '.join(near or PRESETS)}. `halftime forecast models` lists all."
    )


def _preset(name: str) -> Model:
    preset = PRESETS[name]
    text = [
        _built_in(arch, f"text_encoder_{i}" if i > 1 else "text_encoder", tokens)
        for i, (arch, tokens) in enumerate(preset.text, 1)
    ]
    return Model(
        name=name,
        components=(*text, _built_in(preset.denoiser, "denoiser"), _built_in(preset.vae, "vae")),
        width=preset.size[0],
        height=preset.size[1],
        steps=preset.steps,
        guidance=preset.guidance,
        dtype=preset.dtype,
        vae_dtype=preset.vae_dtype,
        frames=preset.frames,
        denoiser_tokens=preset.denoiser_tokens,
    )


def _built_in(name: str, component: str, tokens: int = 0) -> Component:
    architecture = ARCHITECTURES[name]
    return Component(
        name=component,
        role=architecture.role,
        library=architecture.library,
        class_name=architecture.class_name,
        config=architecture.config,
        tokens=tokens,
    )


def _single(name: str) -> Model:
    """One network alone, as a pipeline of one stage."""
    home = next((preset for preset in PRESETS.values() if preset.denoiser == name), None)
    tokens = 77 if ARCHITECTURES[name].role == "text_encoder" else 0
    width, height = home.size if home else (1024, 1024)
    return Model(
        name=name,
        components=(_built_in(name, name, tokens),),
        width=width,
        height=height,
        steps=home.steps if home else 1,
        guidance=home.guidance if home else False,
        dtype=home.dtype if home else "fp16",
        frames=home.frames if home else 1,
        denoiser_tokens=home.denoiser_tokens if home else 0,
    )


def _bundled() -> Model:
    from halftime import bundled

    return _folder(bundled.MODEL, BUNDLED)


def _checkpoint(name: str, config: str | None) -> Model:
    """A file holds weights; what they are part of is in a folder."""
    if config is None:
        raise UnknownModel(
            f"{name} holds weights and does not say what they are part of. Give a folder with the "
            "configuration: --config FOLDER."
        )
    return _folder(Path(config), name)


def _cached(name: str, revision: str | None) -> Path | None:
    """The folder of a hub id in the local cache, without asking the network."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    if revision is not None:
        reference = snapshots.parent / "refs" / revision
        commit = reference.read_text().strip() if reference.is_file() else revision
        return next((path.parent for path in snapshots.glob(f"{commit}*/model_index.json")), None)
    folders = [index.parent for index in snapshots.glob("*/model_index.json") if index.is_file()]
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)


def _folder(folder: Path, name: str) -> Model:
    index = folder / "model_index.json"
    if not index.is_file():
        raise UnknownModel(
            f"{folder} has no model_index.json; name a folder that pipeline.save_pretrained() "
            "wrote."
        )
    entries = _json(index)
    components = [
        component
        for key, value in entries.items()
        if isinstance(value, list)
        and len(value) == 2
        and (component := _component(folder, key, value))
    ]
    notes = tuple(
        f"{component.name} ({component.class_name}) is not known to the forecast and is left out"
        for component in components
        if not knows(component.class_name, component.role)
    )
    usable = tuple(
        component for component in components if knows(component.class_name, component.role)
    )
    denoiser = next((component for component in usable if component.role == "denoiser"), None)
    if denoiser is None:
        raise UnknownModel(f"{folder} has no denoiser that the forecast knows. {' '.join(notes)}")
    size = _size(denoiser, usable)
    return Model(
        name=name,
        components=usable,
        width=size,
        height=size,
        steps=30,
        guidance=denoiser.class_name not in _UNGUIDED,
        dtype="fp16",
        frames=_frames(denoiser.class_name),
        denoiser_tokens=_denoiser_tokens(denoiser, usable),
        notes=notes,
    )


def _frames(class_name: str) -> int:
    """Of the first built-in pipeline with that denoiser: 1 for pictures."""
    denoisers = (
        preset
        for preset in PRESETS.values()
        if ARCHITECTURES[preset.denoiser].class_name == class_name
    )
    return next((preset.frames for preset in denoisers), 1)


def _component(folder: Path, key: str, value: Sequence[Json]) -> Component | None:
    home = place_of(key)
    role = _ROLES.get(home.part) if home else None
    library, class_name = value
    if role is None or not isinstance(library, str) or not isinstance(class_name, str):
        return None
    path = folder / key / "config.json"
    if not path.is_file():
        return None
    library = "transformers" if library == "transformers" else "diffusers"
    config = {name: item for name, item in _json(path).items() if not name.startswith("_")}
    return Component(
        name=key,
        role=role,
        library=library,
        class_name=class_name,
        config=config,
        tokens=_tokens(class_name, config) if role == "text_encoder" else 0,
    )


def _tokens(class_name: str, config: Mapping[str, Json]) -> int:
    positions = config.get("max_position_embeddings")
    return (
        positions
        if isinstance(positions, int) and class_name.startswith("CLIP")
        else _TOKENS.get(class_name, 77)
    )


def _denoiser_tokens(denoiser: Component, components: tuple[Component, ...]) -> int:
    if denoiser.class_name != "UNet2DConditionModel":
        return 0
    return next(
        (component.tokens for component in components if component.role == "text_encoder"), 0
    )


def _size(denoiser: Component, components: tuple[Component, ...]) -> int:
    cells = denoiser.config.get("sample_size")
    vae = next((component for component in components if component.role == "vae"), None)
    blocks = vae.config.get("block_out_channels") if vae else None
    factor = _FACTOR.get(
        denoiser.class_name, 2 ** (len(blocks) - 1) if isinstance(blocks, list) else 8
    )
    return cells * factor if isinstance(cells, int) and cells > 4 else 1024


def _json(path: Path) -> dict[str, Json]:
    try:
        loaded = json.loads(read_bytes(path))
    except json.JSONDecodeError as error:
        raise BadFile(f"{path} is not JSON: {error}.") from error
    if not isinstance(loaded, dict):
        raise BadFile(f"{path} does not hold a JSON object.")
    return loaded
