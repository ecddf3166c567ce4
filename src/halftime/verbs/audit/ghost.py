"""Real geometry without weights: what is large lives on the meta device, and only what is small has
values.

Control flow in pipelines hangs on timesteps, sigmas, lengths and flags, all small. Weights and
activations only need their shapes. Where a value is read that nobody computed, a plausible one is
made up: True, 1 or 1.0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import torch
import transformers

from halftime import bundled
from halftime.base.errors import BadWorkload, UnknownModel
from halftime.pipeline.load import LoadedPipeline, scheduler_named
from halftime.records import Workload
from halftime.upstream import pytorch
from halftime.verbs.audit.rules import INDEXING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LARGEST_WITH_VALUES = 1 << 16  # elements
META = torch.device("meta")


def compute(
    func: pytorch.Operation,
    name: str,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    to_host: bool,
) -> object:
    """Run an operation on unwrapped tensors: by shape where one has no values or much is made."""
    tensors = [
        value for value in pytorch.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)
    ]
    ghosts = [tensor for tensor in tensors if tensor.device == META]
    if not ghosts:
        large = (
            not tensors
            and _elements(args) > LARGEST_WITH_VALUES
            and kwargs.get("device") is not None
        )
        return _by_shape(func, name, args, kwargs) if large else func(*args, **kwargs)
    if name in ("aten::_local_scalar_dense", "aten::equal", "aten::allclose", "aten::is_nonzero"):
        value_type = ghosts[0].dtype
        truth = name != "aten::_local_scalar_dense" or value_type == torch.bool
        return True if truth else 1.0 if value_type.is_floating_point else 1
    if name == "aten::_to_copy" and to_host:
        dtype = kwargs.get("dtype")
        return torch.zeros(
            ghosts[0].shape, dtype=dtype if isinstance(dtype, torch.dtype) else ghosts[0].dtype
        )
    if name == "aten::copy_" and isinstance(args[0], torch.Tensor) and args[0].device != META:
        return args[0]
    if name == "aten::nonzero":
        return torch.zeros((1, ghosts[0].dim()), dtype=torch.long)
    return _by_shape(func, name, args, kwargs)


def _elements(args: Sequence[object]) -> int:
    """Of the tensor that a factory shall make: its size is the first argument."""
    size = args[0] if args else None
    return math.prod(int(extent) for extent in size) if isinstance(size, list | tuple) else 0


def _by_shape(
    func: pytorch.Operation, name: str, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> object:
    def as_ghost(value: object) -> object:
        if (
            isinstance(value, torch.Tensor)
            and value.device != META
            and (value.dim() or name in INDEXING)
        ):
            return value.to(META)
        return value

    meta_args, meta_kwargs = pytorch.tree_map(as_ghost, (args, dict(kwargs)))
    if "device" in meta_kwargs:
        meta_kwargs["device"] = META
    meta_kwargs.pop("generator", None)
    return func(*meta_args, **meta_kwargs)


def is_ghost(pipeline: DiffusionPipeline) -> bool:
    """Whether any weight of the pipeline is on the meta device."""
    return any(
        parameter.device == META
        for component in pipeline.components.values()
        if isinstance(component, torch.nn.Module)
        for parameter in component.parameters()
    )


def load_ghost(model: str | None, workload: Workload) -> LoadedPipeline:
    """The real geometry of a folder or the bundled model, for `workload`. Raises UnknownModel."""
    _check_source(workload)
    folder = bundled.MODEL if model is None else Path(workload.config or model)
    pipeline = ghost_pipeline(folder)
    if workload.dtype:
        pipeline.to(getattr(torch, workload.dtype))
    if workload.scheduler:
        pipeline.scheduler = scheduler_named(workload.scheduler, pipeline)
    return LoadedPipeline(
        pipeline,
        f"{folder.name} (geometry only)",
        ("weights and large activations have shapes, no values",),
    )


_UNREAD = {
    "lora": "holds weights",
    "variant": "names weights",
    "revision": "names a state of a hub's repository, and this reads a folder",
    "custom_pipeline": "names code, and this reads configurations alone",
}


def _check_source(workload: Workload) -> None:
    """Raises BadWorkload for an option that would be passed over in silence."""
    for name, words in _UNREAD.items():
        if getattr(workload, name):
            option = f"--{name.replace('_', '-')}"
            raise BadWorkload(
                f"{option} {words}; --geometry real reads no weights: leave it out, or use "
                "--geometry tiny."
            )


def ghost_pipeline(folder: Path) -> DiffusionPipeline:
    """A pipeline of a folder's real geometry, from its configurations. Raises UnknownModel.

    Models are built on the meta device; schedulers and processors for real; a tokenizer without
    files gets a stand-in.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise UnknownModel(f"{folder} has no model_index.json, so its components are not known.")
    entries = json.loads(index.read_text(encoding="utf-8"))
    components = {
        name: _component(folder / name, *entry)
        for name, entry in entries.items()
        if isinstance(entry, list) and len(entry) == 2
    }
    settings = {
        name: value
        for name, value in entries.items()
        if not name.startswith("_") and name not in components
    }
    pipeline: DiffusionPipeline = getattr(diffusers, entries["_class_name"])(
        **components, **settings
    )
    return pipeline


def _component(folder: Path, library: str | None, class_name: str | None) -> object:
    if library is None or class_name is None:
        return None
    cls = getattr(diffusers if library == "diffusers" else transformers, class_name, None)
    if cls is None:
        raise UnknownModel(f"{folder.name} is a {library}.{class_name}, which is not known here.")
    if issubclass(cls, diffusers.ModelMixin):
        with META:
            return cls.from_config(cls.load_config(folder)).eval()
    if issubclass(cls, transformers.PreTrainedModel):
        with META:
            return cls(cls.config_class.from_pretrained(folder)).eval()
    if "Tokenizer" in class_name and not list(folder.glob("*vocab*")) + list(
        folder.glob("tokenizer.json")
    ):
        return StandInTokenizer()
    return cls.from_pretrained(folder)


class StandInTokenizer:
    """Gives sequences of the requested length; which tokens they hold does not change waits."""

    model_max_length = 77
    pad_token_id = 0

    def __init__(self) -> None:
        self.added_tokens_encoder: dict[str, int] = {}

    def tokenize(self, text: str, **_: object) -> list[str]:
        return text.split()

    def __call__(self, text: str | list[str], max_length: int | None = None, **_: object) -> object:
        rows = 1 if isinstance(text, str) else len(text)
        ids = torch.ones(rows, max_length or self.model_max_length, dtype=torch.long)
        return transformers.BatchEncoding(
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        )

    def batch_decode(self, ids: torch.Tensor, **_: object) -> list[str]:
        return [""] * len(ids)
