"""The table of metrics: what each compares, its direction, whether the verdict needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, Protocol

import numpy as np
import torch

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


# name -> metric, in the order of the report.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("flip", "distance", decides=True),  # mean FLIP error; Andersson et al., HPG 2020
        Metric("ms_ssim", "distance", decides=True),  # 1 - MS-SSIM; Wang et al., Asilomar 2003
        Metric("rmse", "distance", decides=False),  # of 255; PSNR = 20 log10(255 / rmse)
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
    reference, test = (p.pixels.astype(np.float32) / 255 for p in (baseline, candidate))
    return float(_flip_evaluator().evaluate(reference, test, "LDR", True, False)[1])


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

    def measure(self, baseline: Picture, candidate: Picture) -> dict[str, float]:
        """Every metric of one pair."""
        return {name: function(baseline, candidate) for name, function in self.functions.items()}


def kit(pictures: list[Picture], judge: AgreementJudge | str, lpips: Distance | str) -> Kit:
    """The metrics that can be computed. `judge` and `lpips` may be the reason why there is none.

    Raises MissingExtra without FLIP or MS-SSIM.
    """
    require()
    functions: dict[str, Distance] = {"flip": flip, "ms_ssim": ms_ssim, "rmse": rmse}
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
    scores: dict[int, float] = {}  # by picture

    def score(picture: Picture) -> float:
        if id(picture) not in scores:
            scores[id(picture)] = judge.agreement(picture.pixels, picture.prompt)
        return scores[id(picture)]

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
