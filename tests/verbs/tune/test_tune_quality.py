"""Pictures of plans: drawn and judged once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from halftime.records import Workload
from halftime.records.recipe import Choice
from halftime.verbs.tune import quality
from halftime.verbs.tune.bench import Bench
from halftime.verbs.verify.pictures import Picture, PictureSet
from halftime.verbs.verify.render import PicturePrompt


def test_a_plan_asked_for_again_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def render(
        pipeline: object,
        workload: object,
        prompts: list[PicturePrompt],
        *words: str,
        **more: object,
    ) -> PictureSet:
        drawn.append(len(prompts))
        return PictureSet(
            "made", tuple(Picture(p.name, np.zeros((8, 8, 3), np.uint8)) for p in prompts)
        )

    monkeypatch.setattr(quality, "render", render)
    monkeypatch.setattr(quality, "verdict_of", lambda *_: object())
    prompts = [PicturePrompt("a cat", "drawing", f"{i}") for i in range(4)]
    bench = cast(
        Bench, SimpleNamespace(at=lambda plan: SimpleNamespace(pipeline=None), clock=lambda: 0.0)
    )
    pictures = quality.Pictures(
        bench, Workload(), prompts, lambda *_: None, baseline=render(None, None, prompts)
    )
    one, other = (Choice(name="vae-dtype"),), (Choice(name="openvino"),)
    drawn.clear()
    first = pictures.verdict(one)
    assert pictures.verdict(one) is first
    assert drawn == [4]
    pictures.verdict(one, 2)
    pictures.verdict(other, 2)
    pictures.prompts = prompts[:2]
    pictures.verdict(other)  # the same two pictures
    assert drawn == [4, 2, 2]
