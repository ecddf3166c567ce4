"""The table of metrics: what each compares, its direction, whether the verdict needs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from halftime.base.extras import optional
from halftime.verbs.verify.pictures import Array, Picture


class AgreementJudge(Protocol):
    """Scores pictures against prompts; `halftime.verbs.verify.judge` makes them."""

    name: str
    has_aesthetic: bool

    def agreement(self, picture: Array, prompt: str) -> float:
        """How well the picture agrees with its prompt; higher is better."""

    def aesthetic(self, picture: Array) -> float:
        """Higher is better."""


Distance = Callable[[Picture, Picture], float]


@dataclass(frozen=True)
class Metric:
    """One metric of a pair.

    `kind` 'distance': 0 for equal pictures, larger is farther. 'signed': candidate minus baseline
    of a score where higher is better. `decides`: the verdict depends on it; the others are reported
    beside it.
    """

    name: str
    kind: Literal["distance", "signed"]
    decides: bool
    largest: float = math.inf  # that a distance can be


# name -> metric, in the order of the report.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # Mean FLIP error; Andersson et al., HPG 2020. And the largest mean of any small block.
        Metric("flip", "distance", decides=True, largest=1.0),
        Metric("flip_local", "distance", decides=False, largest=1.0),
        # 1 - MS-SSIM; Wang et al., Asilomar 2003
        Metric("ms_ssim", "distance", decides=True, largest=1.0),
        # Of 255; PSNR = 20 log10(255 / rmse).
        Metric("rmse", "distance", decides=False, largest=255.0),
        Metric("latent", "distance", decides=False),  # relative RMS of the final latents
        Metric("lpips", "distance", decides=True),  # Zhang et al., CVPR 2018
        Metric("agreement", "signed", decides=True),  # the judge's cosine with the prompt
        Metric("aesthetic", "signed", decides=False),  # the judge's score
    )
}


def _flip_evaluator() -> ModuleType:
    return optional("flip_evaluator", "verify", "A verdict on pictures (by FLIP)")


def _pytorch_msssim() -> ModuleType:
    return optional("pytorch_msssim", "verify", "A verdict on pictures (by MS-SSIM)")


def require() -> None:
    """Raises MissingExtra without FLIP or MS-SSIM: the other metrics miss what these see."""
    _flip_evaluator()
    _pytorch_msssim()


def flip(baseline: Picture, candidate: Picture) -> float:
    """Mean FLIP error at 67 pixels a degree. Raises MissingExtra without flip-evaluator."""
    return float(flip_errors(baseline, candidate).mean())


def flip_errors(baseline: Picture, candidate: Picture) -> NDArray[np.float32]:
    """The FLIP error of every pixel, shape (height, width)."""
    reference, test = (p.pixels.astype(np.float32) / 255 for p in (baseline, candidate))
    errors = _flip_evaluator().evaluate(reference, test, "LDR", True, False)[0]
    pixels: NDArray[np.float32] = np.asarray(errors, dtype=np.float32)
    height, width, _ = reference.shape
    return pixels.reshape(height, width)


def largest_block(errors: NDArray[np.float32], side: int = 8) -> float:
    """The largest mean of any block of `side` pixels: a small patch of a picture that is seen."""
    height, width = (max(side, size // side * side) for size in errors.shape)
    errors = errors[:height, :width]
    if errors.shape != (height, width):  # the picture is smaller than a block
        return float(errors.mean())
    blocks = errors.reshape(height // side, side, width // side, side)
    return float(blocks.mean(axis=(1, 3)).max())


class FlipMaps:
    """FLIP's map of the last pair: two metrics read it, and it is the slowest thing here."""

    def __init__(self) -> None:
        self._pair: tuple[Picture, Picture] | None = None
        self._errors = np.zeros((1, 1), np.float32)

    def errors(self, baseline: Picture, candidate: Picture) -> NDArray[np.float32]:
        """As `flip_errors`."""
        pair = self._pair
        if pair is None or pair[0] is not baseline or pair[1] is not candidate:
            self._errors = flip_errors(baseline, candidate)
            self._pair = baseline, candidate
        return self._errors

    def mean(self, baseline: Picture, candidate: Picture) -> float:
        """As `flip`."""
        return float(self.errors(baseline, candidate).mean())

    def local(self, baseline: Picture, candidate: Picture) -> float:
        """The largest block of the map."""
        return largest_block(self.errors(baseline, candidate))


def ms_ssim(baseline: Picture, candidate: Picture) -> float:
    """1 - MS-SSIM; 1 - SSIM for pictures of up to 64 pixels.

    The window of 5 pixels leaves 128-pixel pictures all five scales.
    """
    pytorch_msssim = _pytorch_msssim()
    a, b = (
        torch.from_numpy(p.pixels.copy()).permute(2, 0, 1)[None].float()
        for p in (baseline, candidate)
    )
    five_scales = min(a.shape[-2:]) > 64
    function = pytorch_msssim.ms_ssim if five_scales else pytorch_msssim.ssim
    return max(0.0, 1 - float(function(a, b, data_range=255, win_size=5)))


def rmse(baseline: Picture, candidate: Picture) -> float:
    """Root mean square error in grey levels of 255."""
    difference = candidate.pixels.astype(np.float32) - baseline.pixels.astype(np.float32)
    return float(np.sqrt((difference**2).mean()))


def psnr(rmse_value: float) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    return float("inf") if rmse_value == 0 else float(20 * np.log10(255 / rmse_value))


def latent(baseline: Picture, candidate: Picture) -> float:
    """RMS of the difference of the final latents over the RMS of the baseline's."""
    assert baseline.latent is not None
    assert candidate.latent is not None
    size = float(np.sqrt((baseline.latent**2).mean()))
    difference = float(np.sqrt(((candidate.latent - baseline.latent) ** 2).mean()))
    return difference / max(size, 1e-12)


@dataclass(frozen=True)
class Kit:
    """The functions that can run here, and why the others cannot."""

    functions: dict[str, Distance]
    skipped: dict[str, str]

    def only(self, names: Set[str]) -> Kit:
        """The same with fewer metrics."""
        return replace(
            self, functions={name: f for name, f in self.functions.items() if name in names}
        )

    def measure(self, baseline: Picture, candidate: Picture) -> dict[str, float]:
        """Every metric of one pair; of pictures with alpha, on the page where they differ more."""
        row = {name: function(baseline, candidate) for name, function in self.functions.items()}
        if baseline.alpha is None and candidate.alpha is None:
            return row
        black = baseline.on_black(), candidate.on_black()
        on_black = {name: function(*black) for name, function in self.functions.items()}
        return {name: max(row[name], on_black[name], key=abs) for name in row}


def kit(pictures: list[Picture], judge: AgreementJudge | str, lpips: Distance | str) -> Kit:
    """The metrics that can be computed. `judge` and `lpips` may be the reason why there is none.

    Raises MissingExtra without FLIP or MS-SSIM.
    """
    require()
    maps = FlipMaps()
    functions: dict[str, Distance] = {
        "flip": maps.mean,
        "flip_local": maps.local,
        "ms_ssim": ms_ssim,
        "rmse": rmse,
    }
    skipped: dict[str, str] = {}
    if all(picture.latent is not None for picture in pictures):
        functions["latent"] = latent
    else:
        skipped["latent"] = "folders of pictures have no latents"
    if isinstance(lpips, str):
        skipped["lpips"] = lpips
    else:
        functions["lpips"] = lpips
    _add_judge(functions, skipped, pictures, judge)
    return Kit({name: functions[name] for name in METRICS if name in functions}, skipped)


def _add_judge(
    functions: dict[str, Distance],
    skipped: dict[str, str],
    pictures: list[Picture],
    judge: AgreementJudge | str,
) -> None:
    if isinstance(judge, str):
        skipped |= {"agreement": judge, "aesthetic": judge}
        return
    scores: WeakKeyDictionary[Picture, float] = WeakKeyDictionary()

    def score(picture: Picture) -> float:
        if picture not in scores:
            scores[picture] = judge.agreement(picture.pixels, picture.prompt)
        return scores[picture]

    if all(picture.prompt for picture in pictures):
        functions["agreement"] = lambda baseline, candidate: score(candidate) - score(baseline)
    else:
        skipped["agreement"] = "the pictures come without their prompts"
    if judge.has_aesthetic:
        functions["aesthetic"] = lambda baseline, candidate: (
            judge.aesthetic(candidate.pixels) - judge.aesthetic(baseline.pixels)
        )
    else:
        skipped["aesthetic"] = f"{judge.name} has no aesthetic head"
