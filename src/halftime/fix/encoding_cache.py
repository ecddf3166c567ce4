"""encoding-cache: what text encoders, image encoders and the VAE made of the very same input.

A negative prompt that stays while the prompt changes, and a reference picture that is edited again
and again, are encoded once.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from halftime.fix.base import FixCode, Settings, number
from halftime.fix.text import Identities, is_plain, remembered, version_of_weights
from halftime.pipeline.change import patched
from halftime.pipeline.components import components
from halftime.upstream import pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Encode = Callable[..., object]


@dataclass
class EncodingCache:
    """Results of one encoder by the values of its arguments and of its weights; the least recently
    used are dropped first."""

    module: nn.Module
    size: int
    identities: Identities = field(default_factory=Identities)
    entries: OrderedDict[object, object] = field(default_factory=OrderedDict)
    hits: int = 0

    def around(self, encode: Encode) -> Encode:
        """The encoder's method, answered from memory where it can."""

        @functools.wraps(encode)
        def call(*args: object, **kwargs: object) -> object:
            if torch.is_grad_enabled() or self.module.training or torch.compiler.is_compiling():
                return encode(*args, **kwargs)
            key = self._key(args, kwargs)
            if key is None:
                return encode(*args, **kwargs)
            self.hits += key in self.entries
            result = remembered(self.entries, key, self.size, lambda: encode(*args, **kwargs))
            return copy.deepcopy(result)  # the caller owns what it gets

        return call

    def _key(self, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """None where an argument is neither a tensor nor plain data."""
        leaves, shape = pytorch.tree_flatten((args, kwargs))
        if not all(isinstance(leaf, Tensor) or is_plain(leaf) for leaf in leaves):
            return None
        values = [_content(leaf) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
        return repr(shape), tuple(values), version_of_weights([self.module], self.identities)


def _content(tensor: Tensor) -> str:
    """A tensor's values and kind, in a few characters."""
    plain = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.blake2b(plain.tobytes(), digest_size=16).hexdigest()
    return f"{digest} {tuple(tensor.shape)} {tensor.dtype} {tensor.device}"


def _encoders(pipeline: DiffusionPipeline) -> list[tuple[nn.Module, str]]:
    """Each with the name of the method that encodes."""
    texts = components(pipeline, "text_encoder").values()
    pictures = components(pipeline, "image_encoder").values()
    vaes = [vae for vae in components(pipeline, "vae").values() if hasattr(vae, "encode")]
    return [
        *((module, "forward") for module in (*texts, *pictures)),
        *((v, "encode") for v in vaes),
    ]


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    return None if _encoders(pipeline) else "the pipeline encodes neither prompts nor pictures"


@contextmanager
def _cached(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    with ExitStack() as stack:
        for module, entry in _encoders(pipeline):
            cache = EncodingCache(module, int(number(settings, "size")))
            stack.enter_context(patched(module, entry, cache.around(getattr(module, entry))))
        yield


ENCODING_CACHE = FixCode(_applies, _cached)
