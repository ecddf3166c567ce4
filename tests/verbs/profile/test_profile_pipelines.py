"""`profile` on every class it promises: the ledger adds up, stages are recognised, nothing is left
behind."""

from __future__ import annotations

import numpy as np
import pytest

from halftime.base.ledger import ledger
from halftime.records import Workload
from halftime.verbs.profile.call import timed_call
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.instrument import UNRECOGNISED
from tiny_pipelines import PIPELINES, PROMPT

STEPS = 3
# Pipelines that give embeddings, waveforms or their decoder's own output have no VAE decode of
# their own.
WITHOUT_DECODE = {"kandinsky22_prior", "stable_cascade_prior"}
WITHOUT_PROMPT = {"kandinsky22_decoder"}


@pytest.mark.parametrize("name", PIPELINES)
def test_ledger_adds_up_and_the_pipeline_is_unchanged(name: str) -> None:
    tiny = PIPELINES[name]
    pipeline = tiny.build()
    further = {**dict.fromkeys(tiny.steps, STEPS), **tiny.extra()}
    before = np.asarray(pipeline(**tiny.arguments(STEPS))[0])
    classes = {name: type(component) for name, component in pipeline.components.items()}

    run = timed_call(pipeline, Workload(prompts=(PROMPT,)), HostClock(), further)

    rows = {row.stage: row for row in ledger([run])}
    assert sum(row.seconds for row in rows.values()) == pytest.approx(run.run.wall_seconds)
    assert all(row.seconds >= 0 for row in rows.values())
    assert not [stage for stage in rows if UNRECOGNISED in stage]
    expected = {"denoise"} | ({"vae_decode"} - {"vae_decode" for _ in WITHOUT_DECODE & {name}})
    expected |= set() if name in WITHOUT_PROMPT else {"encode_prompt"}
    assert expected <= set(rows)
    loops = 2 if len(tiny.steps) == 2 else 1
    steps = rows["denoise"].per_step
    assert steps is not None
    assert steps.count >= STEPS * loops - 1  # some schedulers drop the last timestep
    assert rows["unexplained"].share < 0.5

    assert {name: type(component) for name, component in pipeline.components.items()} == classes
    np.testing.assert_array_equal(before, np.asarray(pipeline(**tiny.arguments(STEPS))[0]))
