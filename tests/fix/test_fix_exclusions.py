"""Which fixes exclude each other, and each claim about it on a tiny Flux and a tiny UNet.

Compiled by dynamo alone (backend 'eager'): whether there is one graph, and what breaks it, is
decided there, without seconds of code generation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import halftime
from halftime.base.errors import DoesNotApply
from halftime.fix import compilation
from halftime.fix.apply import choose, conflict
from halftime.fix.base import Settings
from halftime.records.fixes import ALWAYS, CONFLICTS, EXCLUSIONS, FIX_ROWS
from halftime.records.recipe import Choice, Plan
from halftime.upstream import pytorch
from tiny_pipelines import FAMILIES, PIPELINES

BLOCKS = {"region": "blocks", "fullgraph": True}
STEPS: dict[str, object] = {"num_inference_steps": 6}


def compiled(**settings: object) -> Choice:
    return Choice(name="denoiser-compile", settings=settings)  # type: ignore[arg-type]


def excluded(*plan: Choice | str) -> str:
    """Why a plan is refused, or ''."""
    choices = tuple(Choice(name=item) if isinstance(item, str) else item for item in plan)
    try:
        choose(Plan(fixes=choices))
    except DoesNotApply as error:
        return str(error)
    return ""


@pytest.fixture
def by_dynamo_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def traced(function: compilation.Forward, settings: Settings, device: torch.device) -> object:
        return torch.compile(
            function, backend="eager", fullgraph=bool(settings["fullgraph"]), dynamic=False
        )

    torch._dynamo.reset()
    pytorch.dynamo_counters().clear()
    monkeypatch.setattr(compilation, "compile_with", traced)
    yield
    torch._dynamo.reset()


def pictures(name: str, *plans: list[Choice]) -> list[np.ndarray]:
    """What a tiny pipeline draws under each plan."""
    tiny = {**PIPELINES, **FAMILIES}[name]
    pipeline = tiny.build()
    drawn = []
    for plan in plans:
        with halftime.applied(pipeline, plan, probe=False):
            result = pipeline(**{**tiny.arguments(), **STEPS})[0]
        drawn.append(np.asarray(result, dtype=float))
    return drawn


# ---- what goes together


@pytest.mark.usefixtures("by_dynamo_alone")
@pytest.mark.parametrize(("name", "backend"), [("flux", "_native_math"), ("sd15", "math")])
def test_an_attention_backend_under_fullgraph_is_one_graph(name: str, backend: str) -> None:
    attention = Choice(name="attention-backend", settings={"backend": backend})
    whole = compiled(fullgraph=True)
    alone, together = pictures(name, [attention], [attention, whole])
    assert np.array_equal(together, alone)
    assert pytorch.dynamo_counters()["stats"]["unique_graphs"] == 1
    assert not pytorch.dynamo_counters()["graph_break"]


@pytest.mark.usefixtures("by_dynamo_alone")
@pytest.mark.parametrize("name", ["flux", "sd15"])
@pytest.mark.parametrize("settings", [{}, BLOCKS], ids=["whole", "blocks, fullgraph"])
def test_a_step_cache_over_a_compiled_denoiser_is_the_uncompiled_cache(
    name: str, settings: dict[str, object]
) -> None:
    """DeepCache's blocks and FirstBlockCache's: skipped where they are skipped without it."""
    cache = Choice(name="step-cache", settings={"threshold": 0.3})
    plain, cached, both = pictures(name, [], [cache], [cache, compiled(**settings)])
    assert not np.array_equal(cached, plain)  # else nothing was skipped
    assert np.array_equal(both, cached)
    assert pytorch.dynamo_counters()["stats"]["unique_graphs"] >= 1


@pytest.mark.usefixtures("by_dynamo_alone")
@pytest.mark.parametrize("kind", ["mag", "taylorseer-lite"])
def test_other_caches_over_compiled_blocks_are_the_uncompiled_cache(kind: str) -> None:
    cache = Choice(name="step-cache", settings={"kind": kind, "threshold": 0.3})
    calls = 2  # mag measures in the first
    tiny, drawn = PIPELINES["flux"], []
    for plan in ([cache], [cache, compiled(**BLOCKS)]):
        pipeline = tiny.build()
        with halftime.applied(pipeline, plan, probe=False):
            results = [pipeline(**{**tiny.arguments(), **STEPS})[0] for _ in range(calls)]
        drawn.append(np.asarray(results[-1], dtype=float))
    assert np.array_equal(*drawn)
    assert pytorch.dynamo_counters()["stats"]["unique_graphs"] == 2  # one a class of blocks


def test_math_attention_is_chosen_on_a_cpu_too() -> None:
    """Beside others, torch takes flash, whatever the order."""
    tiny = PIPELINES["flux"]
    pipeline = tiny.build()
    with (
        halftime.applied(
            pipeline,
            [Choice(name="attention-backend", settings={"backend": "math"})],
            probe=False,
        ),
        torch.profiler.profile() as trace,
    ):
        pipeline(**tiny.arguments(1))
    names = {event.key for event in trace.key_averages()}
    assert "aten::_scaled_dot_product_attention_math" in names


# ---- what does not


@pytest.mark.usefixtures("by_dynamo_alone")
@pytest.mark.parametrize("name", ["flux", "sd15"])
def test_a_step_cache_in_one_graph_fails_and_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = [Choice(name="step-cache"), compiled(fullgraph=True)]
    assert "region = 'blocks'" in excluded(*plan)
    monkeypatch.setattr("halftime.fix.apply.EXCLUSIONS", ())
    with pytest.raises(torch._dynamo.exc.Unsupported):
        pictures(name, plan)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_a_step_cache_over_cuda_graphs_is_refused(mode: str) -> None:
    assert "overwrites" in excluded("step-cache", compiled(mode=mode, region="blocks"))


def test_every_exclusion_names_settings_that_exist_and_says_why() -> None:
    for rule in EXCLUSIONS:
        assert rule.left_settings.keys() <= FIX_ROWS[rule.left].settings.keys()
        assert rule.right_settings.keys() <= FIX_ROWS[rule.right].settings.keys()
        assert rule.reason
    listed = [pair for pair, _ in ALWAYS]
    assert len(listed) == len({*listed})


def test_an_exclusion_is_the_same_from_both_sides() -> None:
    chosen = [
        choose(Plan(fixes=(Choice(name=name, settings=dict(settings)),)))[0]
        for name, row in FIX_ROWS.items()
        for settings in row.proposals
    ]
    pairs = [(a, b) for a, b in combinations(chosen, 2) if a.fix.name != b.fix.name]
    assert all(conflict(a, b) == conflict(b, a) for a, b in pairs)
    assert any(conflict(a, b) for a, b in pairs)
    assert CONFLICTS


# ---- CUDA graphs


class Overwriting(nn.Module):
    """Answers as a CUDA graph does: each result where the last one was written."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)
        self.buffer = torch.zeros(2)

    def forward(self, sample: Tensor) -> tuple[Tensor]:
        self.buffer.copy_(sample)
        return (self.buffer,)


def test_what_a_cuda_graph_would_overwrite_is_copied_and_the_step_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two evaluations a step: guidance must not subtract the second from itself."""
    steps: list[int] = []
    monkeypatch.setattr(compilation, "compile_with", lambda function, *_: function)
    monkeypatch.setattr(compilation, "graphed", lambda *_: True)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: steps.append(1))
    model = Overwriting()
    settings = {**compilation.DEFAULTS, "mode": "reduce-overhead"}
    with compilation.compiled(model, "forward", settings):
        conditional, unconditional = model(torch.ones(2))[0], model(torch.zeros(2))[0]
        assert torch.equal(conditional - unconditional, torch.ones(2))
    assert len(steps) == 2
    assert model(torch.ones(2))[0] is model.buffer


@pytest.mark.parametrize(
    ("mode", "device", "captures"),
    [
        ("reduce-overhead", "cuda", True),
        ("max-autotune", "cuda", True),
        ("default", "cuda", False),
        ("max-autotune-no-cudagraphs", "cuda", False),
        ("reduce-overhead", "cpu", False),
    ],
)
def test_which_modes_capture_graphs(mode: str, device: str, captures: bool) -> None:
    assert compilation.graphed({"mode": mode}, torch.device(device)) is captures
