"""What dynamo did, seen from outside: real recompiles of a real (eager-backend) compile."""

from __future__ import annotations

import torch

from halftime.records import CompileReport
from halftime.upstream.pytorch import is_compiled
from halftime.verbs.profile.compilation import look, report
from tiny_pipelines import PIPELINES


def test_recompiles_are_counted_with_their_reason() -> None:
    pipeline = PIPELINES["sd15"].build()
    assert report(pipeline, look(), look(), look()) is None
    pipeline.vae.compile(backend="eager", dynamic=False)
    assert is_compiled(pipeline.vae)
    assert not is_compiled(pipeline.unet)
    before = look()
    with torch.no_grad():
        pipeline.vae(torch.zeros(1, 3, 16, 16))
        warm = look()
        pipeline.vae(torch.zeros(1, 3, 24, 24))
    found = report(pipeline, before, warm, look())
    assert isinstance(found, CompileReport)
    assert found.compiled == ("vae",)
    assert found.graphs >= 2
    assert found.after_warmup >= 1
    assert found.compile_seconds > 0
    assert any("changed from 16 to 24" in recompile.reason for recompile in found.recompiles)
