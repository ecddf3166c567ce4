"""The table of metrics: what each compares, its unit and direction, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, Protocol

import numpy as np

from halftime.base.extras import optional
from halftime.verbs.verify.pictures import Array, Picture


class Judge(Protocol):
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
    unit: str
    kind: Literal["distance", "signed"]
    decides: bool
    needs: Literal["nothing", "judge", "aesthetic", "latents", "lpips"]
    source: str


# name -> metric, in the order of the report.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "flip",
            "mean FLIP error, 0..1",
            "distance",
            True,
            "nothing",
            "Andersson et al., HPG 2020",
        ),
        Metric("ms_ssim", "1 - MS-SSIM", "distance", True, "nothing", "Wang et al., Asilomar 2003"),
        Metric(
            "rmse",
            "root mean square error of 255",
            "distance",
            False,
            "nothing",
            "PSNR = 20 log10(255 / rmse)",
        ),
        Metric("latent", "relative RMS of the final latents", "distance", False, "latents", ""),
        Metric("lpips", "LPIPS", "distance", True, "lpips", "Zhang et al., CVPR 2018"),
        Metric("agreement", "cosine with the prompt", "signed", True, "judge", "the judge's own"),
        Metric("aesthetic", "the judge's score", "signed", False, "aesthetic", "the judge's own"),
    )
}


def _flip_evaluator() -> ModuleType:
    return optional("flip_evaluator", "verify", "A verdict on pictures (by FLIP)")


def _pytorch_msssim() -> ModuleType:
    return optional("pytorch_msssim", "verify", "A verdict on pictures (by MS-SSIM)")


def require() -> None:
    """Raises MissingExtra where FLIP or MS-SSIM cannot be computed: the other metrics miss what
    these see."""
    _flip_evaluator()
    _pytorch_msssim()


def flip(one: Picture, other: Picture) -> float:
    """Mean FLIP error at 67 pixels a degree. Raises MissingExtra without flip-evaluator."""
    reference, test = (p.pixels.astype(np.float32) / 255 for p in (one, other))
    return float(_flip_evaluator().evaluate(reference, test, "LDR", True, False)[1])


def ms_ssim(one: Picture, other: Picture) -> float:
    """1 - MS-SSIM with a window of 5 pixels, so that 128-pixel pictures have all five scales;
    smaller ones 1 - SSIM."""
    import torch

    pytorch_msssim = _pytorch_msssim()
    a, b = (torch.from_numpy(p.pixels.copy()).permute(2, 0, 1)[None].float() for p in (one, other))
    whole = min(a.shape[-2:]) > 64
    function = pytorch_msssim.ms_ssim if whole else pytorch_msssim.ssim
    return max(0.0, 1 - float(function(a, b, data_range=255, win_size=5)))


def rmse(one: Picture, other: Picture) -> float:
    """Root mean square error in grey levels of 255."""
    difference = one.pixels.astype(np.float32) - other.pixels.astype(np.float32)
    return float(np.sqrt((difference**2).mean()))


def psnr(rmse_value: float) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    return float("inf") if rmse_value == 0 else float(20 * np.log10(255 / rmse_value))


def latent(one: Picture, other: Picture) -> float:
    """RMS of the difference of the final latents over the RMS of the baseline's."""
    assert one.latent is not None
    assert other.latent is not None
    size = float(np.sqrt((one.latent**2).mean()))
    return float(np.sqrt(((one.latent - other.latent) ** 2).mean())) / max(size, 1e-12)


@dataclass(frozen=True)
class Kit:
    """The functions that can run here, and why the others cannot."""

    functions: dict[str, Distance]
    skipped: dict[str, str]

    def measure(self, baseline: Picture, candidate: Picture) -> dict[str, float]:
        """Every metric of one pair."""
        return {name: function(baseline, candidate) for name, function in self.functions.items()}


def kit(pictures: list[Picture], judge: Judge | str, lpips: Distance | str) -> Kit:
    """Which metrics can be had. `judge` and `lpips` are the thing itself or the reason why there is
    none.

    Raises MissingExtra where FLIP or MS-SSIM cannot be.
    """
    require()
    functions: dict[str, Distance] = {"flip": flip, "ms_ssim": ms_ssim, "rmse": rmse}
    skipped: dict[str, str] = {}
    if all(picture.latent is not None for picture in pictures):
        functions["latent"] = latent
    else:
        skipped["latent"] = "folders of pictures hold no latents"
    _add(functions, skipped, "lpips", lpips)
    _add_judge(functions, skipped, pictures, judge)
    return Kit({name: functions[name] for name in METRICS if name in functions}, skipped)


def _add(
    functions: dict[str, Distance], skipped: dict[str, str], name: str, thing: Distance | str
) -> None:
    if isinstance(thing, str):
        skipped[name] = thing
    else:
        functions[name] = thing


def _add_judge(
    functions: dict[str, Distance],
    skipped: dict[str, str],
    pictures: list[Picture],
    judge: Judge | str,
) -> None:
    if isinstance(judge, str):
        skipped |= {"agreement": judge, "aesthetic": judge}
        return
    known: dict[int, float] = {}

    def score(picture: Picture) -> float:
        if id(picture) not in known:
            known[id(picture)] = judge.agreement(picture.pixels, picture.prompt)
        return known[id(picture)]

    if all(picture.prompt for picture in pictures):
        functions["agreement"] = lambda one, other: score(other) - score(one)
    else:
        skipped["agreement"] = "the pictures come without their prompts"
    if judge.has_aesthetic:
        functions["aesthetic"] = lambda one, other: (
            judge.aesthetic(other.pixels) - judge.aesthetic(one.pixels)
        )
    else:
        skipped["aesthetic"] = f"{judge.name} has no aesthetic head"
