"""offload: which kind fits, what is refused, and that it comes off. The accelerator is this CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

import halftime
from fix_cells import changes, drawing, fingerprint
from halftime.base.errors import DoesNotApply
from halftime.base.store import write_toml
from halftime.fix import offload, probe
from halftime.fix.apply import choose, starts_on_host
from halftime.fix.guard import why_not
from halftime.fix.offload import Weights, bytes_of, kind_within, weights_of
from halftime.fix.table import FIXES
from halftime.pipeline.components import modules_of
from halftime.records.fixes import FIX_ROWS
from halftime.records.recipe import Choice, Plan, Recipe
from tiny_pipelines import PIPELINES

GIB = 2**30


@pytest.mark.parametrize(
    ("memory", "expected"),
    [("12GB", 12 * 10**9), (" 1.5 GiB", 3 * 2**29), ("800mb", 800 * 10**6), ("12", None)],
)
def test_amounts_of_memory(memory: str, expected: int | None) -> None:
    assert bytes_of(memory) == expected


@pytest.mark.parametrize(("memory", "kind"), [(80, ""), (40, "model"), (24, "group"), (2, "leaf")])
def test_the_way_that_moves_least_and_fits(memory: int, kind: str) -> None:
    """A Flux: a transformer of 24 GiB in 57 blocks, T5 of 9, a VAE."""
    flux = [
        Weights(24 * GIB, 23 * GIB, GIB // 2),
        Weights(9 * GIB, 9 * GIB),
        Weights(GIB // 4, GIB // 4),
    ]
    assert kind_within(memory * GIB, flux) == kind


ORDER = ("", "model", "group", "leaf")


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=4),
    st.integers(1, 500),
    st.integers(1, 500),
)
def test_more_memory_never_moves_more(sizes: list[int], less: int, more: int) -> None:
    components = [Weights(size, size // 2, size // 8) for size in sizes]
    less, more = sorted((less, more))
    at_most, at_least = (ORDER.index(kind_within(m, components)) for m in (more, less))
    assert at_most <= at_least


def test_the_blocks_of_a_transformer_are_its_weights_but_for_the_ends() -> None:
    pipeline = PIPELINES["flux"].build()
    names = [*modules_of(pipeline)]
    transformer = weights_of(pipeline)[names.index("transformer")]
    assert 0 < transformer.largest_block < transformer.blocks < transformer.total
    text = weights_of(pipeline)[names.index("text_encoder")]
    assert text.in_groups == 0  # moved layer by layer


# ---- what is refused


def refusal(**settings: str) -> str:
    fix = FIXES["offload"]
    pipeline = PIPELINES["flux"].build()
    return str(why_not(fix, pipeline, fix.with_defaults(settings)))


def test_without_an_accelerator_there_is_nothing_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "accelerator", lambda own: None)
    assert "no accelerator" in refusal()


@pytest.mark.parametrize(("own", "computes_on"), [("cuda:1", "cuda:1"), ("cpu", "cuda:0")])
def test_a_pipeline_stays_on_the_card_that_it_is_on(
    monkeypatch: pytest.MonkeyPatch, own: str, computes_on: str
) -> None:
    """The second of two workers, each with a card of its own, has its pipeline on the second."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert offload.accelerator(torch.device(own)) == torch.device(computes_on)


@pytest.fixture
def on_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setattr(offload, "accelerator", lambda own: torch.device("cpu"))


@pytest.mark.usefixtures("on_this_cpu")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "disk"}, "allowed are: model, group, leaf, auto"),
        ({"kind": "auto"}, "go together"),
        ({"memory": "12GB"}, "go together"),
        ({"kind": "auto", "memory": "much"}, "like '12GB'"),
        ({"kind": "auto", "memory": "12GB"}, "fit into 12GB"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, str], words: str) -> None:
    assert words in refusal(**settings)


@pytest.mark.usefixtures("on_this_cpu")
def test_a_pipeline_that_is_offloaded_already_is_refused() -> None:
    pipeline = PIPELINES["flux"].build()
    pipeline.enable_model_cpu_offload(device="cpu")
    assert "already" in str(why_not(FIXES["offload"], pipeline, FIXES["offload"].settings))


def test_what_copies_or_compiles_weights_goes_with_whole_components_alone() -> None:
    def excluded(kind: str, name: str) -> bool:
        plan = (Choice(name="offload", settings={"kind": kind}), Choice(name=name))
        try:
            choose(Plan(fixes=plan))
        except DoesNotApply:
            return True
        return False

    for name, row in FIX_ROWS.items():
        if row.weights and not row.is_runtime and name != "loop-graph":
            assert [excluded(kind, name) for kind in ("model", "group", "leaf", "auto")] == [
                False,
                True,
                True,
                True,
            ]
    assert all(excluded("model", name) for name in ("openvino", "onnxruntime", "loop-graph"))


# ---- on and off


@pytest.mark.usefixtures("on_this_cpu")
@pytest.mark.parametrize("kind", ["model", "group", "leaf"])
@pytest.mark.parametrize("name", ["flux", "sd15"])
def test_it_draws_the_same_bytes_and_comes_off(name: str, kind: str) -> None:
    tiny = PIPELINES[name]
    pipeline = tiny.build()
    plain = drawing(lambda: pipeline(**tiny.arguments()))
    before = fingerprint(pipeline)
    with halftime.applied(pipeline, [Choice(name="offload", settings={"kind": kind})]):
        assert np.array_equal(drawing(lambda: pipeline(**tiny.arguments())), plain)
        assert any(
            hasattr(part, "_hf_hook") or hasattr(part, "_diffusers_hook")
            for part in pipeline.vae.modules()
        )
    assert changes(before, fingerprint(pipeline)) == []
    assert np.array_equal(drawing(lambda: pipeline(**tiny.arguments())), plain)


@pytest.mark.usefixtures("on_this_cpu")
def test_whole_components_are_offloaded_beside_lower_precision() -> None:
    tiny = PIPELINES["flux"]
    pipeline = tiny.build()
    pipeline(**tiny.arguments())
    before = fingerprint(pipeline)
    with halftime.applied(pipeline, ["denoiser-dtype"]):
        expected = drawing(lambda: pipeline(**tiny.arguments()))
    with halftime.applied(pipeline, ["offload", "denoiser-dtype"]):
        assert np.array_equal(drawing(lambda: pipeline(**tiny.arguments())), expected)
    assert changes(before, fingerprint(pipeline)) == []


@pytest.mark.parametrize("fix", ["denoiser-dtype", "vae-dtype", "step-cache"])
def test_a_fix_stays_on_a_pipeline_that_its_user_offloads(fix: str) -> None:
    """At the end of each call diffusers takes the hooks off and makes new ones, and what a fix had
    put over the hooked methods was gone in the second."""
    pytest.importorskip("accelerate")
    tiny = PIPELINES["flux"]
    pipeline = tiny.build()
    with halftime.applied(pipeline, [fix], probe=False):
        expected = drawing(lambda: pipeline(**tiny.arguments(6)))
    pipeline.enable_model_cpu_offload(device="cpu")
    plain = drawing(lambda: pipeline(**tiny.arguments(6)))
    before = fingerprint(pipeline)
    with halftime.applied(pipeline, [fix]):
        for _ in range(2):
            assert np.array_equal(drawing(lambda: pipeline(**tiny.arguments(6))), expected)
    assert changes(before, fingerprint(pipeline)) == []
    assert np.array_equal(drawing(lambda: pipeline(**tiny.arguments(6))), plain)


# ---- a pipeline on the host, which a card may be too small for

CARD = torch.device("cpu", 0)  # another device than the host, on a machine without a card


@pytest.fixture
def with_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setattr(offload, "accelerator", lambda own: CARD)


@pytest.mark.usefixtures("with_a_card")
@pytest.mark.parametrize("kind", ["model", "group", "leaf"])
def test_weights_on_the_host_are_moved_by_handles_of_their_own(kind: str) -> None:
    """Whoever shares them (a twin of `tune`) keeps them where they are."""
    pipeline = PIPELINES["flux"].build()
    weights = dict(pipeline.transformer.named_parameters())
    plan = [Choice(name="offload", settings={"kind": kind})]
    with halftime.applied(pipeline, plan, probe=False):
        for name, moved in pipeline.transformer.named_parameters():
            assert moved is not weights[name]
            assert moved.data_ptr() == weights[name].data_ptr()
            moved.data = torch.empty(0)  # as a hook takes it away
        assert all(weight.numel() for weight in weights.values())
    assert all(now is weights[name] for name, now in pipeline.transformer.named_parameters())


@pytest.mark.usefixtures("with_a_card")
def test_the_probe_compares_on_the_card_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of the host and one of the card are never bit for bit the same."""
    pipeline = PIPELINES["flux"].build()
    calls: list[bool] = []
    called = probe._called

    def noted(pipe: object, arguments: Mapping[str, object]) -> probe.ShortCall:
        calls.append(hasattr(pipeline.transformer, "_hf_hook"))
        return called(pipe, arguments)

    monkeypatch.setattr(probe, "_called", noted)
    monkeypatch.setattr(probe, "_PASSED", set())
    with halftime.applied(pipeline, ["offload"]):
        pass
    assert calls == []  # nothing to compare
    with halftime.applied(pipeline, ["offload", "denoiser-dtype"]):
        pass
    assert len(calls) >= 2
    assert all(calls)


@pytest.mark.usefixtures("with_a_card")
def test_what_is_put_on_beside_it_is_asked_about_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, torch.device] = {}

    def applies(pipeline: object, device: torch.device, settings: object) -> str | None:
        asked["tf32"] = device
        return "seen"

    monkeypatch.setitem(FIXES, "tf32", structs.replace(FIXES["tf32"], applies=applies))
    for plan, device in ((["offload", "tf32"], CARD), (["tf32"], torch.device("cpu"))):
        with (
            pytest.raises(DoesNotApply, match="seen"),
            halftime.applied(PIPELINES["flux"].build(), plan),
        ):
            pass
        assert asked["tf32"] == device


def test_a_recipe_that_moves_weights_is_loaded_on_the_host(tmp_path: Path) -> None:
    recipe = Recipe(fixes=(Choice(name="offload"), Choice(name="tf32")))
    write_toml(tmp_path / "recipe.toml", recipe)
    assert starts_on_host(str(tmp_path / "recipe.toml"))
    assert not starts_on_host(["tf32"])
    assert not starts_on_host(None)


# ---- decoding in parts


@pytest.mark.parametrize(("name", "switch"), [("vae-slicing", "slicing"), ("vae-tiling", "tiling")])
def test_decoding_in_parts_goes_on_and_comes_off(name: str, switch: str) -> None:
    tiny = PIPELINES["sd15"]
    pipeline = tiny.build()
    plain = drawing(lambda: pipeline(**tiny.arguments()))
    before = fingerprint(pipeline)
    with halftime.applied(pipeline, [name]):
        assert getattr(pipeline.vae, f"use_{switch}")
        # one small picture is one slice and one tile
        assert np.array_equal(drawing(lambda: pipeline(**tiny.arguments())), plain)
    assert changes(before, fingerprint(pipeline)) == []
    getattr(pipeline.vae, f"enable_{switch}")()
    fix = FIXES[name]
    assert why_not(fix, pipeline, fix.settings) == f"{switch} is on already"
