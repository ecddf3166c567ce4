"""`tune` in seconds: fixes that take no time to put on, each timed in few rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from halftime.records.recipe import Choice, Rung
from halftime.verbs.tune import bench, climber, ending

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

ROUNDS = 4  # intervals want as many


def tune_quickly(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Of the fixes that apply only these: all of them would fill any budget with compiling."""
    whole = climber.candidates

    def some(
        pipeline: DiffusionPipeline, approximate: bool, device: torch.device | None = None
    ) -> tuple[list[Choice], list[Rung]]:
        choices, refused = whole(pipeline, approximate, device)
        return [choice for choice in choices if choice.name in names], refused

    monkeypatch.setattr(climber, "candidates", some)
    monkeypatch.setattr(bench, "FIRST_ROUNDS", ROUNDS)
    monkeypatch.setattr(bench, "MOST_ROUNDS", ROUNDS)
    monkeypatch.setattr(ending, "_SIZES", ((1, ROUNDS, 1), (1, 2, 0)))
