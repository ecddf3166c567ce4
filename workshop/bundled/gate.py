"""The independent gate: is a generated picture recognised by features that were never trained on
our data?

nsfwjs ships a really pretrained MobileNetV2 (8-bit weights, undocumented training data). A linear
head over its 1280 features names our objects; it is fitted on re-rendered artwork alone. It is a
recogniser and no distance: not LPIPS.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from workshop.bundled.artwork import COLOURABLE, COLOURS, NOUNS, STYLES, Objects, random_jitter


class Layer(TypedDict):
    class_name: str
    name: str
    config: dict
    inbound_nodes: list


class MobileNet:
    """Runs the Keras layers up to the average pool. Pictures N, 3, 224, 224 in 0..1."""

    def __init__(self, folder: Path) -> None:
        described = json.loads((folder / "mobilenet.json").read_text())
        self.layers: list[Layer] = described["modelTopology"]["model_config"]["config"]["layers"]
        raw = np.frombuffer((folder / "mobilenet.bin").read_bytes(), np.uint8)
        self.weights: dict[str, Tensor] = {}
        start = 0
        for w in described["weightsManifest"][0]["weights"]:
            count, q = int(np.prod(w["shape"])), w["quantization"]
            values = raw[start : start + count].astype(np.float32) * q["scale"] + q["min"]
            self.weights[w["name"]] = torch.from_numpy(values.reshape(w["shape"]))
            start += count

    def convolution(self, x: Tensor, layer: Layer) -> Tensor:
        config, depthwise = layer["config"], layer["class_name"] == "DepthwiseConv2D"
        kernel = self.weights[f"{layer['name']}/{'depthwise_kernel' if depthwise else 'kernel'}"]
        kernel = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
        pad = kernel.shape[-1] // 2 if config["padding"] == "same" else 0
        bias = self.weights.get(f"{layer['name']}/bias")
        return F.conv2d(
            x, kernel, bias, config["strides"], pad, groups=x.shape[1] if depthwise else 1
        )

    def norm(self, x: Tensor, layer: Layer) -> Tensor:
        gamma, beta, mean, variance = (
            self.weights[f"{layer['name']}/{k}"]
            for k in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return F.batch_norm(x, mean, variance, gamma, beta, eps=layer["config"]["epsilon"])

    def features(self, x: Tensor) -> Tensor:
        outputs: dict[str, Tensor] = {}
        for layer in self.layers:
            inputs = (
                [outputs[node[0]] for node in layer["inbound_nodes"][0]]
                if layer["inbound_nodes"]
                else [x]
            )
            match layer["class_name"]:
                case "InputLayer":
                    y = x
                case "ZeroPadding2D":
                    (top, bottom), (left, right) = layer["config"]["padding"]
                    y = F.pad(inputs[0], (left, right, top, bottom))
                case "Conv2D" | "DepthwiseConv2D":
                    y = self.convolution(inputs[0], layer)
                case "BatchNormalization":
                    y = self.norm(inputs[0], layer)
                case "ReLU":
                    y = inputs[0].clamp(0, layer["config"]["max_value"])
                case "Add":
                    y = inputs[0] + inputs[1]
                case "AveragePooling2D":
                    return inputs[0].mean((2, 3))
                case other:
                    raise ValueError(
                        f"Layer {layer['name']} is a {other}, which is not understood here."
                    )
            outputs[layer["name"]] = y
        raise ValueError("The network has no average pool.")

    @torch.inference_mode()
    def of(self, pictures: Sequence[np.ndarray]) -> Tensor:
        rows = []
        for start in range(0, len(pictures), 16):
            x = (
                torch.from_numpy(np.stack(pictures[start : start + 16])).permute(0, 3, 1, 2).float()
                / 255
            )
            rows.append(
                self.features(F.interpolate(x, size=(224, 224), mode="bilinear", antialias=True))
            )
        return torch.cat(rows)


def spoilt(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, noise at three scales, contrast and brightness: none of it drawn by the model that is
    judged."""
    image = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.6))))
    x = np.asarray(image).astype(np.float32)
    for scale in (1, 4, 16):
        noise = rng.normal(0, rng.uniform(0, 10), (128 // scale, 128 // scale, 3))
        x = x + noise.repeat(scale, 0).repeat(scale, 1)
    x = (x - 255) * rng.uniform(0.85, 1.15) + 255 + rng.uniform(-8, 4)
    return x.clip(0, 255).round().astype(np.uint8)


def drawn(data: Path, variants: int, seed: int) -> tuple[list[np.ndarray], Tensor, list[str]]:
    """Pictures, object numbers and styles; colours at random where an object has them."""
    objects, rng = Objects(data), np.random.default_rng(seed)
    pictures, labels, styles = [], [], []
    for label, noun in enumerate(NOUNS):
        for style in STYLES:
            for _ in range(variants):
                colour = str(rng.choice(list(COLOURS))) if noun in COLOURABLE else None
                pictures.append(
                    objects.draw(objects.of_noun[noun], style, colour, random_jitter(rng))
                )
                labels.append(label)
                styles.append(style)
    return pictures, torch.tensor(labels), styles


class Head:
    """Multinomial logistic regression over standardised features."""

    def __init__(self, features: Tensor, labels: Tensor, decay: float = 3e-3) -> None:
        self.mean, self.std = features.mean(0), features.std(0) + 1e-3
        self.linear = nn.Linear(features.shape[1], len(NOUNS))
        nn.init.zeros_(self.linear.weight)
        x = self.scaled(features)
        optimizer = torch.optim.LBFGS(self.linear.parameters(), max_iter=150, history_size=10)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (
                F.cross_entropy(self.linear(x), labels)
                + decay * self.linear.weight.square().sum() / 2
            )
            loss.backward()
            return loss

        optimizer.step(closure)

    def scaled(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        best = self.linear(self.scaled(features)).topk(5).indices
        hit = best == labels[:, None]
        return {"top1": float(hit[:, 0].float().mean()), "top5": float(hit.any(1).float().mean())}

    @torch.no_grad()
    def log_probability(self, features: Tensor, labels: Tensor) -> Tensor:
        """Of each picture's own object, in nats."""
        return F.log_softmax(self.linear(self.scaled(features)), 1).gather(1, labels[:, None])[:, 0]

    def by_style(
        self, features: Tensor, labels: Tensor, styles: list[str]
    ) -> dict[str, dict[str, float]]:
        out = {"all": self.accuracy(features, labels)}
        for style in STYLES:
            here = torch.tensor([s == style for s in styles])
            out[style] = self.accuracy(features[here], labels[here])
        return out


def features_of_artwork(
    network: MobileNet, data: Path, spoil: bool, variants: int = 6
) -> tuple[Tensor, Tensor]:
    cache = data / ("gate_features_spoilt.pt" if spoil else "gate_features.pt")
    if cache.exists():
        return torch.load(cache)
    pictures, labels, _ = drawn(data, variants, seed=13 if spoil else 11)
    if spoil:
        rng = np.random.default_rng(14)
        pictures = [spoilt(p, rng) for p in pictures]
    features = network.of(pictures)
    torch.save((features, labels), cache)
    return features, labels


def fitted(data: Path) -> tuple[MobileNet, dict[str, Head]]:
    """Two heads: fitted on clean artwork alone, and on clean and spoilt artwork together.

    The first one also punishes what people look through, such as a mottled background.
    """
    network = MobileNet(data)
    clean, spoilt_too = (features_of_artwork(network, data, spoil) for spoil in (False, True))
    both = Head(torch.cat([clean[0], spoilt_too[0]]), torch.cat([clean[1], spoilt_too[1]]))
    return network, {"clean": Head(*clean), "spoilt too": both}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    network, heads = fitted(args.data)
    pictures, labels, styles = drawn(args.data, 1, seed=12)
    features = network.of(pictures)
    for name, head in heads.items():
        print(
            f"real pictures, rendered anew, head fitted on {name}:",
            head.by_style(features, labels, styles),
        )
