"""text-warmup, prompt-cache, batch-prompts: the text encoders' first, repeated and double calls."""

from __future__ import annotations

import functools
import inspect
import itertools
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from halftime.base.errors import DoesNotApply, HalftimeWarning, first_line
from halftime.fix.base import FixCode, Settings, number
from halftime.pipeline.change import patched
from halftime.pipeline.components import components, components_of
from halftime.pipeline.device import device_of
from halftime.pipeline.state import adapter_layers, adapter_settings
from halftime.upstream import hugging_face, pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Encode = Callable[..., object]


def _parameters(pipeline: DiffusionPipeline) -> dict[str, inspect.Parameter]:
    encode = getattr(type(pipeline), "encode_prompt", None)
    return dict(inspect.signature(encode).parameters) if encode else {}


def _needs_encode_prompt(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    return None if "prompt" in _parameters(pipeline) else "the pipeline has no encode_prompt method"


# ---- text-warmup


@contextmanager
def _warm_up(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    try:
        with torch.no_grad():
            pipeline.encode_prompt(**warmup_arguments(pipeline))
    except Exception as error:  # encoders are other people's code
        raise DoesNotApply(
            f"text-warmup: {type(pipeline).__name__}.encode_prompt needs more: {first_line(error)}"
        ) from error
    yield


def warmup_arguments(pipeline: DiffusionPipeline) -> dict[str, object]:
    """The least that this pipeline's `encode_prompt` needs; parameters that it alone requires are
    None."""
    common: dict[str, object] = {
        "prompt": "warm-up",
        "device": device_of(pipeline),
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": True,
        "negative_prompt": "",
    }
    parameters = _parameters(pipeline)
    required = {
        name
        for name, parameter in parameters.items()
        if name != "self"
        and parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    return {name: common.get(name) for name in parameters if name in common or name in required}


def _warmup_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    if not components(pipeline, "text_encoder"):
        return "the pipeline has no text encoder"
    return _needs_encode_prompt(pipeline, device, settings)


# ---- prompt-cache


def remembered(
    entries: OrderedDict[object, object], key: object, size: int, make: Callable[[], object]
) -> object:
    """The entry of a key, made where there is none; the least recently used are dropped first."""
    if key in entries:
        entries.move_to_end(key)
    else:
        entries[key] = make()
        while len(entries) > size:
            entries.popitem(last=False)
    return entries[key]


class PromptCache:
    """Embeddings by exact arguments; the least recently used are dropped first."""

    def __init__(self, encode: Encode, size: int, version: Callable[[], object]) -> None:
        self.encode, self.size, self.version = encode, size, version
        self.entries: OrderedDict[object, object] = OrderedDict()
        self.hits = self.misses = 0
        # Bound by name, so that positional and keyword calls meet in one entry.
        self.signature = inspect.signature(encode)
        functools.update_wrapper(self, encode)

    @property
    def hit_rate(self) -> float | None:
        """Hits over calls; None before the first call."""
        calls = self.hits + self.misses
        return self.hits / calls if calls else None

    def __call__(self, *args: object, **kwargs: object) -> object:
        key = self._key(args, kwargs)
        if key is None:
            self.misses += 1
            return self.encode(*args, **kwargs)
        if key in self.entries:
            self.hits += 1
        else:
            self.misses += 1
        return _cloned(
            remembered(self.entries, key, self.size, lambda: self.encode(*args, **kwargs))
        )

    def _key(self, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """Exact: the arguments and the weights' version. None where an argument is not plain
        data."""
        values = self.signature.bind(*args, **kwargs).arguments
        if not all(map(is_plain, values.values())):
            return None
        return repr(sorted(values.items())), self.version()


def is_plain(value: object) -> bool:
    """Whether a value is data whose text says all of it."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float | bool | torch.device | torch.dtype)


def _cloned(value: object) -> object:
    # The caller owns what it gets; the entry stays as it was.
    return pytorch.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)


class Identities:
    """A number for each object that is shown to it, given to no other one: Python uses an `id`
    again as soon as its object is gone."""

    def __init__(self) -> None:
        self._numbered: dict[int, tuple[Callable[[], object | None], int]] = {}
        self._next = itertools.count()
        self._places: list[object] = []
        self.samples: list[Tensor] = []  # views of one value each, at those places

    def number(self, thing: object) -> int:
        reference, number = self._numbered.get(id(thing), (_nothing, -1))
        if reference() is not thing:
            number = next(self._next)
            self._numbered[id(thing)] = _reference(thing), number
        return number

    def places_of(self, weights: Sequence[Tensor]) -> list[object]:
        """Where each weight is and how often it was written to; with new ones new samples."""
        places: list[object] = [
            (self.number(weight), weight.data_ptr(), pytorch.writes_to(weight))
            for weight in weights
        ]
        if places != self._places:
            self._places, self.samples = places, _middles(weights)
        return places


def _nothing() -> None:
    return None


def _reference(thing: object) -> Callable[[], object | None]:
    try:
        return weakref.ref(thing)
    except TypeError:  # of a kind that takes no weak references: kept alive
        return lambda: thing


@dataclass
class EncodingVersion:
    """A value that changes with whatever embeddings depend on besides the arguments: an encoder's
    or tokenizer's exchange, a write into a weight, an adapter's choice or weight, an added token,
    and what of the pipeline itself its `encode_prompt` reads.
    """

    pipeline: DiffusionPipeline
    identities: Identities = field(default_factory=Identities)

    def __call__(self) -> str:
        encoders = list(components(self.pipeline, "text_encoder").values())
        tokenizers = [
            (name, self.identities.number(tokenizer), len(tokenizer))
            for name, tokenizer in components_of(self.pipeline).items()
            if "tokenizer" in name and isinstance(tokenizer, Sized)
        ]
        weights = version_of_weights(encoders, self.identities)
        return repr((weights, tokenizers, _read_by_encode_prompt(self.pipeline)))


def version_of_weights(modules: Sequence[nn.Module], identities: Identities) -> str:
    """A value that changes with a weight's exchange, a write into one, and an adapter's choice.

    A write through `.data` is counted nowhere, so one value in the middle of each weight is read.
    """
    counted = counted_version(modules, identities)
    values = torch.cat(identities.samples).tolist() if identities.samples else []
    return repr((counted, values))


def counted_version(modules: Iterable[nn.Module], identities: Identities) -> object:
    """The same but for writes through `.data`: no value is read, and no device waited for."""
    modules = list(modules)
    weights = [
        weight
        for module in modules
        for weight in (*module.parameters(), *module.buffers())
        if weight.numel() and not weight.is_meta
    ]
    places = identities.places_of(weights)
    adapters = [
        (identities.number(layer), *adapter_settings(layer))
        for module in modules
        for layer in adapter_layers(module)
    ]
    return places, adapters


def _middles(weights: Sequence[Tensor]) -> list[Tensor]:
    """Plain weights alone: a quantised one has no values to look at. Those of the first dtype and
    device, so that they can be read at once; encoders share both."""
    plain = [weight for weight in weights if type(weight) in (Tensor, nn.Parameter)]
    alike = [
        weight
        for weight in plain
        if (weight.dtype, weight.device) == (plain[0].dtype, plain[0].device)
    ]
    # By index, which gives a view; flatten() copies a weight that is not contiguous.
    return [
        weight.detach()[tuple(size // 2 for size in weight.shape)].reshape(1) for weight in alike
    ]


def _read_by_encode_prompt(pipeline: DiffusionPipeline) -> dict[str, object]:
    """The plain attributes of the pipeline that the code of `encode_prompt` names; not its device,
    which is looked for in every module, and shows in where the weights are."""
    code = inspect.unwrap(type(pipeline).encode_prompt).__code__
    names = set(code.co_names) - {"device", hugging_face.EXECUTION_DEVICE}
    values = {name: getattr(pipeline, name, None) for name in sorted(names)}
    return {name: value for name, value in values.items() if is_plain(value)}


@contextmanager
def _cached(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    cache = PromptCache(
        pipeline.encode_prompt,
        int(number(settings, "size")),
        EncodingVersion(pipeline),
    )
    with patched(pipeline, "encode_prompt", cache):
        yield


# ---- batch-prompts


def _pairs(result: object) -> bool:
    return (
        isinstance(result, tuple)
        and len(result) % 2 == 0
        and all(r is None or isinstance(r, Tensor) for r in result)
    )


def batched(encode: Encode, zeroed: Callable[[dict[str, object]], bool]) -> Encode:
    """`encode_prompt` with positive and negative prompts in one forward, then cut in two.

    Calls that pass embeddings, or whose negative embeddings are zeros anyway, are left alone. The
    first call of each kind is encoded in both ways: a pipeline may take no negative prompt for
    something else than an empty one, or pad one text by the other, and is then left alone too.
    """
    signature = inspect.signature(encode)
    agreed: dict[object, bool] = {}  # by kind of call

    @functools.wraps(encode)
    def call(*args: object, **kwargs: object) -> object:
        arguments = dict(signature.bind(*args, **kwargs).arguments)
        if (
            not arguments.get("do_classifier_free_guidance", True)
            or zeroed(arguments)
            or not _has_texts(arguments)
        ):
            return encode(*args, **kwargs)
        kind = _kind(arguments)
        if agreed.get(kind) is False:
            return encode(*args, **kwargs)
        result = _in_one(encode, arguments)
        if result is not None and agreed.get(kind):
            return result
        expected = encode(*args, **kwargs)
        agreed[kind] = result is not None and _agree(result, expected)
        if not agreed[kind]:
            warnings.warn(_DISAGREES, HalftimeWarning, stacklevel=2)
        return expected

    return call


_DISAGREES = (
    "batch-prompts: this pipeline encodes its two prompts otherwise when they share a forward, so "
    "they are encoded one after the other, as without the fix."
)
# Two forwards and one differ by rounding: rmse over the embeddings' own deviation.
_AGREEMENT = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def _kind(arguments: dict[str, object]) -> object:
    """What may decide how a pipeline encodes: which texts there are, and which is the longer, by
    which some pad the shorter. Each kind is checked once."""
    texts = {name: value for name, value in arguments.items() if "prompt" in name}
    lengths = [
        max(map(len, _listed(arguments.get(name), 1)), default=0)
        for name in ("prompt", "negative_prompt")
    ]
    return (
        lengths[0] >= lengths[1],
        *((name, type(value).__name__, bool(value)) for name, value in sorted(texts.items())),
    )


def _in_one(encode: Encode, arguments: dict[str, object]) -> tuple[Tensor | None, ...] | None:
    """Both prompts in one forward, cut in two; None where the pipeline does not work like that."""
    try:
        result = encode(**_doubled(arguments))
        if not _pairs(result) or any(negative is not None for negative in result[1::2]):  # type: ignore[index]
            return None
        return tuple(half for both in result[::2] for half in _halves(both))  # type: ignore[index]
    except Exception:  # encoders are other people's code; the plain call says what is wrong
        return None


def _agree(batched: tuple[Tensor | None, ...], expected: object) -> bool:
    if not isinstance(expected, tuple) or len(batched) != len(expected):
        return False
    return all(map(_equal_but_for_rounding, batched, expected))


def _equal_but_for_rounding(left: Tensor | None, right: object) -> bool:
    if left is None or not isinstance(right, Tensor):
        return left is right
    if left.shape != right.shape:
        return False
    if not left.is_floating_point():
        return torch.equal(left, right)
    error = (left.double() - right.double()).square().mean().sqrt()
    deviation = right.double().std(correction=0).clamp_min(1e-12)
    return bool(error / deviation <= _AGREEMENT.get(right.dtype, 1e-3))


def _has_texts(arguments: dict[str, object]) -> bool:
    embeddings = any(isinstance(value, Tensor) for value in arguments.values())
    return not embeddings and isinstance(arguments.get("prompt"), str | list)


def _listed(value: object, length: int) -> list[str]:
    texts = [str(text) for text in value] if isinstance(value, list | tuple) else [str(value or "")]
    return texts * length if len(texts) == 1 else texts


def _doubled(arguments: dict[str, object]) -> dict[str, object]:
    """The same call for prompts followed by negative prompts, without guidance."""
    positive = _listed(arguments["prompt"], 1)
    n = len(positive)
    negative = _listed(arguments.get("negative_prompt"), n)
    call = {k: v for k, v in arguments.items() if not k.startswith("negative_prompt")}
    call |= {"prompt": positive + negative, "do_classifier_free_guidance": False}
    for suffix in ("_2", "_3"):
        if arguments.get(f"prompt{suffix}") or arguments.get(f"negative_prompt{suffix}"):
            first = _listed(arguments.get(f"prompt{suffix}") or positive, n)
            call[f"prompt{suffix}"] = first + _listed(
                arguments.get(f"negative_prompt{suffix}") or negative, n
            )
    return call


def _halves(value: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if value is None:
        return None, None
    positive, negative = value.chunk(2)
    return positive, negative


def _zeroed(pipeline: DiffusionPipeline) -> Callable[[dict[str, object]], bool]:
    force = bool(getattr(pipeline.config, "force_zeros_for_empty_prompt", False))
    return lambda arguments: force and arguments.get("negative_prompt") is None


@contextmanager
def _in_one_forward(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    with patched(pipeline, "encode_prompt", batched(pipeline.encode_prompt, _zeroed(pipeline))):
        yield


def _batch_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    parameters = _parameters(pipeline)
    for name in ("prompt", "negative_prompt", "do_classifier_free_guidance"):
        if name not in parameters:
            return f"its encode_prompt takes no {name}"
    return None


TEXT_WARMUP = FixCode(_warmup_applies, _warm_up)
PROMPT_CACHE = FixCode(_needs_encode_prompt, _cached)
BATCH_PROMPTS = FixCode(_batch_applies, _in_one_forward)
