"""Judges: the bundled one, any CLIP of transformers, with or without a LAION-style aesthetic
head."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from halftime.base.errors import BadFile, BadInput
from halftime.verbs.verify.metrics import Distance, Judge
from halftime.verbs.verify.pictures import Array, Picture

if TYPE_CHECKING:
    import torch


class BundledJudge:
    """emoji-xl's own small judge; its scores mean something inside its vocabulary alone."""

    name, has_aesthetic = "the bundled judge", True

    def __init__(self) -> None:
        from halftime import bundled

        self.inner = bundled.load_judge()

    def agreement(self, picture: Array, prompt: str) -> float:
        return self.inner.scores([Image.fromarray(picture)], [prompt])[0]

    def aesthetic(self, picture: Array) -> float:
        return self.inner.aesthetic([Image.fromarray(picture)])[0]


class ClipJudge:
    """Any CLIP that transformers loads, by folder or hub id; the aesthetic head is linear layers on
    its picture vector.

    The head is a safetensors file of weights and biases in order (LAION's improved aesthetic
    predictor is one).
    """

    def __init__(self, source: str, head: Path | None = None) -> None:
        from transformers import AutoModel, AutoProcessor

        try:
            self.model = AutoModel.from_pretrained(source).eval()
            self.processor = AutoProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"judge {source!r} is no CLIP that transformers can load: {error}"
            ) from error
        self.name, self.head = source, _read_head(head) if head else []
        self.has_aesthetic = bool(self.head)

    def _picture(self, picture: Array) -> torch.Tensor:
        import torch

        inputs = self.processor(images=Image.fromarray(picture), return_tensors="pt")
        with torch.inference_mode():
            return _unit(self.model.get_image_features(**inputs))

    def agreement(self, picture: Array, prompt: str) -> float:
        import torch

        inputs = self.processor(text=[prompt], return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            return float(
                (self._picture(picture) * _unit(self.model.get_text_features(**inputs))).sum()
            )

    def aesthetic(self, picture: Array) -> float:
        features = self._picture(picture)
        for weight, bias in self.head:
            features = features @ weight.T + bias
        return float(features.mean())


def _unit(features: object) -> torch.Tensor:
    # transformers 5 wraps the features in an output object.
    tensor = getattr(features, "pooler_output", features)
    return tensor / tensor.norm(dim=-1, keepdim=True)  # type: ignore[no-any-return, attr-defined]


def _read_head(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadFile(f"{path} is no safetensors file: {error}.") from error
    names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    missing = [name for name in names if f"{name}.bias" not in tensors]
    if not names or missing:
        raise BadFile(
            f"{path} holds no linear layers with weight and bias; it holds: {', '.join(tensors)}."
        )
    return [(tensors[f"{name}.weight"].float(), tensors[f"{name}.bias"].float()) for name in names]


def find(source: str | None, head: Path | None = None) -> Judge | str:
    """The judge that was asked for; the bundled one where none was; or the reason why there is
    none."""
    from halftime import bundled

    if source:
        return ClipJudge(source, head)
    if not (bundled.JUDGE / "config.json").is_file():
        return "no judge: this installation carries no bundled one; name a CLIP with --judge"
    config = json.loads((bundled.JUDGE / "config.json").read_text(encoding="utf-8"))
    return BundledJudge() if config else "the bundled judge has no configuration"


def find_lpips(weights: Path | None) -> Distance | str:
    """LPIPS with the backbone weights that were given, or the reason why there is none."""
    if weights is None:
        return "no backbone weights; give AlexNet's with --lpips-weights"
    try:
        import torch

        lpips = importlib.import_module("lpips")
    except (ImportError, RuntimeError) as error:
        return f"the package lpips does not import here: {error}"
    model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    features = {
        key.split(".", 1)[1]: value for key, value in state.items() if key.startswith("features.")
    }
    layers = [
        layer
        for part in range(1, 6)
        for layer in getattr(model.net, f"slice{part}").named_children()
    ]
    for name, layer in layers:
        layer.load_state_dict(
            {k.split(".", 1)[1]: v for k, v in features.items() if k.split(".", 1)[0] == name}
        )

    def distance(one: Picture, other: Picture) -> float:
        a, b = (
            torch.from_numpy(p.pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            for p in (one, other)
        )
        with torch.inference_mode():
            return float(model(a, b))

    return distance
