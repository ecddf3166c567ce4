"""Judges: functions that say how good an answer is, the bundled one or the user's own."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from halftime.base.errors import BadInput

AnswerJudge = Callable[[bytes, str, str], float]
"""picture, prompt and answer -> how good the answer is."""


def judge_named(name: str) -> AnswerJudge:
    """'bundled', or module:function. Raises BadInput."""
    if name == "bundled":
        return _bundled_judge()
    module, colon, function = name.partition(":")
    if not colon:
        raise BadInput(f"--judge {name!r} is neither 'bundled' nor module:function.")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` would find it
    try:
        judge: AnswerJudge = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"--judge {name!r} cannot be loaded: {error}.") from error
    return judge


def _bundled_judge() -> AnswerJudge:
    from halftime import bundled  # needs torch, which only this judge does

    scorer = bundled.load_judge()

    def judge(picture: bytes, prompt: str, answer: str) -> float:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        return float(scorer.scores([image], [answer])[0])

    return judge
