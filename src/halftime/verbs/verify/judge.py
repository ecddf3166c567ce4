"""Judges: the bundled one, or any CLIP, with or without a LAION-style aesthetic head."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from halftime import bundled
from halftime.base.errors import BadFile, BadInput
from halftime.verbs.verify.metrics import AgreementJudge, Distance
from halftime.verbs.verify.pictures import Array, Picture


class BundledJudge:
    """emoji-xl's small judge; its scores mean something inside its vocabulary alone."""

    name, has_aesthetic = "the bundled judge", True

    def __init__(self) -> None:
        self.inner = bundled.load_judge()

    def agreement(self, picture: Array, prompt: str) -> float:
        return self.inner.scores([Image.fromarray(picture)], [prompt])[0]

    def aesthetic(self, picture: Array) -> float:
        return self.inner.aesthetic([Image.fromarray(picture)])[0]


class ClipJudge:
    """Any CLIP that transformers loads, by folder or hub id.

    The aesthetic head is linear layers on its picture vector: a safetensors file of weights and
    biases in order (LAION's improved aesthetic predictor is one).
    """

    def __init__(self, source: str, head: Path | None = None) -> None:
        try:
            self.model = AutoModel.from_pretrained(source).eval()
            self.processor = AutoProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"judge {source!r} is not a CLIP that transformers can load: {error}"
            ) from error
        self.name, self.head = source, _read_head(head) if head else []
        self.has_aesthetic = bool(self.head)

    def _picture(self, picture: Array) -> torch.Tensor:
        inputs = self.processor(images=Image.fromarray(picture), return_tensors="pt")
        with torch.inference_mode():
            return _unit(self.model.get_image_features(**inputs))

    def agreement(self, picture: Array, prompt: str) -> float:
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
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadFile(f"{path} is not a safetensors file: {error}.") from error
    names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    missing = [name for name in names if f"{name}.bias" not in tensors]
    if not names or missing:
        raise BadFile(
            f"{path} has no linear layers with weight and bias; it has: {', '.join(tensors)}."
        )
    return [(tensors[f"{name}.weight"].float(), tensors[f"{name}.bias"].float()) for name in names]


def find(source: str | None, head: Path | None = None) -> AgreementJudge | str:
    """The CLIP at `source`, the bundled judge for None, or the reason why there is none."""
    if source:
        return ClipJudge(source, head)
    if not (bundled.JUDGE / "config.json").is_file():
        return "this installation has no bundled judge; name a CLIP with --judge"
    return BundledJudge()


def find_lpips(weights: Path | None) -> Distance | str:
    """LPIPS with these AlexNet weights, or the reason why it cannot be computed."""
    if weights is None:
        return "it needs AlexNet's weights; give them with --lpips-weights"
    try:
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

    def distance(baseline: Picture, candidate: Picture) -> float:
        a, b = (
            torch.from_numpy(p.pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            for p in (baseline, candidate)
        )
        with torch.inference_mode():
            return float(model(a, b))

    return distance
