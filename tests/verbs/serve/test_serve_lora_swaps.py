"""LoRAs beside a recipe: one place, written for each request, and nothing compiled anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline

import halftime
from fix_cells import drawing
from halftime.base.errors import BadInput
from halftime.base.store import write_toml
from halftime.fix import compilation
from halftime.fix.base import Settings
from halftime.pipeline.architecture import architecture
from halftime.records.recipe import Choice, Plan
from halftime.upstream import pytorch
from halftime.verbs.serve.lora_swaps import LoraSwaps, check_swaps, open_swaps
from halftime.verbs.serve.loras import OfferedLoras, _load, load_loras
from halftime.verbs.serve.messages import EngineSettings
from tiny_pipelines import PIPELINES

peft = pytest.importorskip("peft")
# name -> rank, the layers that it adapts, and its alpha
LORAS = {"ink": (2, ["to_q", "to_v"], 2), "paper v1.5": (4, ["to_k", "to_out.0"], 8)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs of the tiny Flux, of other ranks, in other layers."""
    path = tmp_path_factory.mktemp("loras")
    for number, (name, (rank, targets, alpha)) in enumerate(LORAS.items()):
        model = PIPELINES["flux"].build().transformer
        torch.manual_seed(number)
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=False
        )
        model.add_adapter(config)
        FluxPipeline.save_lora_weights(
            path,
            transformer_lora_layers=peft.get_peft_model_state_dict(model),
            weight_name=f"{name}.safetensors",
            transformer_lora_adapter_metadata=config.to_dict(),
        )
    return path


def draw(pipeline: DiffusionPipeline) -> np.ndarray:
    return drawing(lambda: pipeline(**PIPELINES["flux"].arguments()))


def opened(folder: Path) -> LoraSwaps:
    return open_swaps(PIPELINES["flux"].build(), sorted(folder.glob("*.safetensors")), _load)


@pytest.fixture(scope="module")
def alone(folder: Path) -> Mapping[str, np.ndarray]:
    """The picture with each LoRA, loaded as diffusers does."""
    pictures = {}
    for name in LORAS:
        pipeline = PIPELINES["flux"].build()
        pipeline.load_lora_weights(str(folder), weight_name=f"{name}.safetensors")
        pictures[name] = draw(pipeline)
    return pictures


def test_each_is_drawn_with_as_if_it_were_alone_and_nothing_is_compiled_anew(
    folder: Path, alone: Mapping[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def traced(function: compilation.Forward, settings: Settings, device: torch.device) -> object:
        return torch.compile(function, backend="eager", dynamic=False)

    monkeypatch.setattr(compilation, "compile_with", traced)
    torch._dynamo.reset()
    bare = draw(PIPELINES["flux"].build())
    swaps = opened(folder)
    np.testing.assert_array_equal(draw(swaps.pipeline), bare)
    compiled = Choice(name="denoiser-compile", settings={"freezing": False})
    with halftime.applied(swaps.pipeline, [compiled], probe=False):
        off = draw(swaps.pipeline)
        graphs = pytorch.dynamo_counters()["stats"]["unique_graphs"]
        for name in (*LORAS, *LORAS):
            with swaps.on(name, 1.0):
                assert np.abs(draw(swaps.pipeline) - alone[name]).max() < 1e-4
            assert np.abs(alone[name] - bare).max() > 1e-3
            np.testing.assert_array_equal(draw(swaps.pipeline), off)  # and not in the next
        with swaps.on("ink", 0.0):
            np.testing.assert_array_equal(draw(swaps.pipeline), off)
        assert pytorch.dynamo_counters()["stats"]["unique_graphs"] == graphs
    assert np.abs(off - bare).max() < 1e-4
    torch._dynamo.reset()


def test_the_place_takes_the_largest_rank_and_every_layer(folder: Path) -> None:
    swaps = opened(folder)
    assert swaps.rank == 4
    ink, paper = swaps.weights("ink", 1.0), swaps.weights("paper v1.5", 1.0)
    assert ink.keys() == paper.keys()
    assert {name: w.shape for name, w in ink.items()} == {n: w.shape for n, w in paper.items()}
    assert not any(weight.any() for weight in swaps.weights(None, 1.0).values())


def test_adapters_are_not_of_the_architecture(folder: Path) -> None:
    """A recipe that was made without them applies beside them."""
    assert architecture(opened(folder).pipeline) == architecture(PIPELINES["flux"].build())


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(name="denoiser-dtype"), "denoiser-dtype"),
        (Choice(name="denoiser-compile"), "freezing = false"),
    ],
)
def test_a_recipe_that_would_not_see_the_next_one_is_refused(
    folder: Path, choice: Choice, words: str
) -> None:
    swaps = opened(folder)
    with (
        halftime.applied(swaps.pipeline, [choice], probe=False),
        pytest.raises(BadInput, match=f"--loras and --recipe: .*{words}"),
    ):
        check_swaps(swaps)
    check_swaps(swaps)
    check_swaps(None)


def adapted(**changes: object) -> Callable[..., None]:
    """In the place of loading a file: an adapter of this kind."""

    def load(pipeline: DiffusionPipeline, file: Path, adapter: str) -> None:
        part = str(changes.get("part", "transformer"))
        settings = {name: value for name, value in changes.items() if name != "part"}
        targets = ["q"] if part == "text_encoder_2" else ["to_q"]
        config = peft.LoraConfig(r=2, target_modules=targets, **settings)
        getattr(pipeline, part).add_adapter(config, adapter_name=adapter)

    return load


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"use_dora": True}, r"transformer\..*to_q"),
        ({"lora_bias": True}, r"transformer\..*to_q"),
        ({"part": "text_encoder_2"}, r"text_encoder_2\..*q"),
    ],
)
def test_what_is_not_two_factors_of_the_denoiser_is_refused_by_name(
    changes: dict[str, object], where: str
) -> None:
    pipeline = PIPELINES["flux"].build()
    with pytest.raises(BadInput, match=f"ink.safetensors adapts {where}.*without --recipe"):
        open_swaps(pipeline, [Path("ink.safetensors")], adapted(**changes))


def test_the_server_swaps_beside_a_recipe_alone(folder: Path, tmp_path: Path) -> None:
    write_toml(tmp_path / "recipe.toml", Plan())
    settings = EngineSettings(loras=str(folder), recipe=str(tmp_path / "recipe.toml"))
    offered = load_loras(PIPELINES["flux"].build(), settings)
    assert list(offered.adapters) == list(LORAS)
    assert offered.swaps is not None
    plain = load_loras(PIPELINES["flux"].build(), EngineSettings(loras=str(folder)))
    assert plain.swaps is None
    assert list(plain.adapters) == list(LORAS)
    assert load_loras(PIPELINES["flux"].build(), EngineSettings()) == OfferedLoras()
    both = EngineSettings(loras=str(folder), recipe="r.toml", lora=("style.safetensors",))
    with pytest.raises(BadInput, match="place for one LoRA"):
        load_loras(PIPELINES["flux"].build(), both)
