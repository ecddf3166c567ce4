"""The certificate: what it lists ran twice, dynamo stood still, and what comes later is noticed."""

from __future__ import annotations

import msgspec
import pytest
import torch
from test_serve_studio import SETTINGS, draw, small, studio

from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.studio import Studio, open_studio
from halftime.verbs.serve.warmup import NotStill, buckets_of, certify, graphs
from halftime.verbs.serve.watching import Dynamo, Memory


def quiet(step: str, position: int, total: int) -> None:
    assert 0 <= position < total


@pytest.fixture
def compiled() -> Studio:
    """One mode, since others only add calls: which are warmed is in test_serve_modes.py."""
    torch._dynamo.reset()
    return open_studio(settings(model="serve_models:compiled", img2img=False, inpaint=False))


def settings(**changes: object) -> EngineSettings:
    return msgspec.structs.replace(SETTINGS, **changes)


@pytest.mark.slow
def test_what_is_listed_ran_and_dynamo_stood_still(compiled: Studio) -> None:
    chosen = settings(sizes=((32, 32), (64, 32)), steps=(2, 4), max_batch=2)
    certificate = certify(compiled, chosen, None, quiet)
    assert certificate.graphs_first.unique_graphs > certificate.graphs_before.unique_graphs
    assert certificate.graphs_second == certificate.graphs_first
    assert {(entry.width, entry.height, entry.batch) for entry in certificate.entries} == {
        (32, 32, 1),
        (32, 32, 2),
        (64, 32, 1),
        (64, 32, 2),
    }
    assert {entry.mode for entry in certificate.entries} == {"text2img"}
    assert {entry.guidance for entry in certificate.entries} == {"guided", "unguided"}
    assert certificate.steps == (2, 4)
    assert certificate.prompt_tokens == ()
    assert certificate.environment is not None

    dynamo = Dynamo()
    for size in ((32, 32), (64, 32)):
        draw(compiled, [small(width=size[0], height=size[1], steps=4, guidance=3.0)])
    assert dynamo.look() == ()
    draw(compiled, [small(width=64, height=64, guidance=3.0)])
    graphs_compiled = dynamo.look("culprit")
    assert graphs_compiled
    assert graphs_compiled[0].request == "culprit"
    guard = graphs_compiled[0].guard
    assert "size of" in guard or "value of" in guard
    assert dynamo.look() == ()


@pytest.mark.slow
def test_no_certificate_where_dynamo_never_stands_still(
    compiled: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe that compiles in every call: here, because something forgets all graphs each
    time."""
    original = Studio.draw

    def forgetful(self: Studio, *args: object) -> object:
        torch._dynamo.reset()
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Studio, "draw", forgetful)
    with pytest.raises(NotStill, match="pass 4"):
        certify(compiled, settings(max_batch=1, steps=(2,)), None, quiet)


def test_only_pipelines_that_do_not_pad_get_prompt_buckets() -> None:
    assert buckets_of(studio("sdxl").pipeline) == ()
    assert buckets_of(studio("flux").pipeline) == ()
    assert buckets_of(studio("lumina2").pipeline) == ()
    assert buckets_of(_Unpadded()) == (6, 24)  # type: ignore[arg-type]


class _Unpadded:
    """A pipeline by what is asked of it: one embedding row a word, as Qwen-Image and Z-Image
    make."""

    _execution_device = "cpu"
    tokenizer = type("Tokenizer", (), {"model_max_length": 32})()

    def encode_prompt(self, prompt: str, device: object) -> torch.Tensor:
        return torch.zeros(1, len(prompt.split()), 4)


def test_memory_that_grows_drops_what_was_compiled(compiled: Studio) -> None:
    draw(compiled, [small()])
    grown = iter(range(0, 10**6, 1000))
    memory = Memory(limit=1000, read=lambda: next(grown))
    messages = [memory.grew() for _ in range(9)]
    assert messages[:7] == [None] * 7
    assert messages[7] is not None
    assert "memory grew by" in messages[7]
    before = graphs().unique_graphs
    assert memory.drop() is True
    draw(compiled, [small()])
    assert graphs().unique_graphs > before  # it really was dropped: the same call compiles again


def test_memory_that_creeps_up_and_down_is_noticed() -> None:
    levels = iter(base + jitter for base in range(0, 4000, 20) for jitter in (0, 300))
    memory = Memory(limit=1000, read=lambda: next(levels))
    messages = [memory.grew() for _ in range(200)]
    first = next(index for index, words in enumerate(messages) if words)
    assert "crept up by" in str(messages[first])
    assert 100 < first < 200
    memory.drop()
    assert not any(memory.grew() for _ in range(50))  # counted anew from here


def test_steady_memory_is_left_alone() -> None:
    memory = Memory(limit=2**30)
    assert not any(memory.grew() for _ in range(20))
    assert memory.resident() > 0
