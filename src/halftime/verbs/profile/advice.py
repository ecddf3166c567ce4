"""Which fixes may be named on this very pipeline: one that would be refused is no advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halftime.fix.base import Fix
from halftime.fix.blocks import is_open
from halftime.fix.guard import why_not
from halftime.fix.table import FIXES
from halftime.pipeline.state import PipelineState, state_of
from halftime.records.fixes import FixName
from halftime.verbs.profile.evidence import Obstacle

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# All that a rule of this room names.
NAMED: tuple[FixName, ...] = (
    "progress-bar-off",
    "lora-fuse",
    "vae-channels-last",
    "denoiser-channels-last",
    "vae-dtype",
    "denoiser-dtype",
    "denoiser-quantize",
    "vae-slicing-off",
    "attention-backend",
    "vae-compile",
    "denoiser-compile",
    "step-cache",
    "schedule-table",
    "loop-graph",
    "prompt-cache",
    "text-warmup",
    "offload",
)


def refused_fixes(pipeline: DiffusionPipeline) -> dict[FixName, Obstacle]:
    """What stands against each fix that rules name, of those that cannot be put on this pipeline.

    Nothing inside a block of `applied`, whose own fixes stand in the way: what is settled by a plan
    is left out by `open_findings`. Nor is a package that could be installed an obstacle.
    """
    if is_open(pipeline):
        return {}
    state = state_of(pipeline)
    obstacles = {
        name: _obstacle(FIXES[name], pipeline, state) for name in NAMED if not FIXES[name].extra
    }
    return {name: obstacle for name, obstacle in obstacles.items() if obstacle}


def _obstacle(fix: Fix, pipeline: DiffusionPipeline, state: PipelineState) -> Obstacle | None:
    reason = why_not(fix, pipeline, fix.settings, state)
    if reason is None:
        return None
    for settings in fix.proposals:
        if why_not(fix, pipeline, fix.with_defaults(settings), state) is None:
            return Obstacle(reason, settings)
    return Obstacle(reason)
