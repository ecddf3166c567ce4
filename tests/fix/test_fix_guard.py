"""A fix is right on a pipeline in any state, or refuses by name before anything is changed."""

from __future__ import annotations

import copy
import gc
import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from msgspec import structs
from torch import nn

import halftime
from fix_cells import changes, drawing, fingerprint
from halftime.base.errors import DoesNotApply, HalftimeWarning
from halftime.fix import probe
from halftime.fix.apply import architecture, choose, read_plan, reasons
from halftime.fix.base import ChosenFix
from halftime.fix.deep_cache import DeepCache
from halftime.fix.guard import CHANGES, COMPILERS, COPY_WEIGHTS, EVERY_CHANGE, REFUSALS
from halftime.fix.precision import in_dtype
from halftime.fix.probe import check_levels, probe_key
from halftime.pipeline.change import method_wrapped, patched
from halftime.pipeline.components import denoisers
from halftime.records.fixes import FIX_ROWS
from halftime.records.recipe import Choice, Plan, Recipe
from tiny_pipelines import BREADTH, FAMILIES, PIPELINES

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")


def picture(name: str, pipeline: DiffusionPipeline, **arguments: object) -> np.ndarray:
    tiny = {**PIPELINES, **FAMILIES}[name]
    return np.asarray(pipeline(**{**tiny.arguments(), **arguments})[0], dtype=float)


def distance(left: np.ndarray, right: np.ndarray) -> float:
    """rmse over the picture's own deviation."""
    return float(np.sqrt(np.mean((left - right) ** 2)) / right.std())


def with_lora(pipeline: DiffusionPipeline, *components: str) -> DiffusionPipeline:
    """A LoRA of rank 4 with random weights on the attention of each component."""
    from peft import LoraConfig

    torch.manual_seed(1)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj"]
    for name in components:
        component = getattr(pipeline, name)
        component.add_adapter(LoraConfig(r=4, target_modules=targets), adapter_name="style")
        for weight_name, weight in component.named_parameters():
            if "lora" in weight_name:
                nn.init.normal_(weight, std=0.3)
    return pipeline


@pytest.fixture(autouse=True)
def nothing_was_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that passed in another test of this process is not probed again."""
    monkeypatch.setattr(probe, "_PASSED", set[str]())


# ---- the table


def test_every_fix_of_the_guards_table_exists() -> None:
    assert set(CHANGES) | EVERY_CHANGE | COMPILERS | COPY_WEIGHTS <= set(FIX_ROWS)
    assert all(row.fixes <= EVERY_CHANGE for row in REFUSALS)


# ---- adapters


class BaseTunerLayer(nn.Module):
    """A layer of the model with an active adapter around it, as peft makes one."""

    active_adapters, merged_adapters, disable_adapters = ("style",), (), False


def test_an_active_adapter_is_not_fused_away() -> None:
    pipeline = PIPELINES["sd15"].build()
    pipeline.unet.mid_block.adapted = BaseTunerLayer()
    assert "fuse_lora()" in str(reasons(pipeline)["fused-qkv"])
    pipeline.unet.mid_block.adapted.merged_adapters = ("style",)
    assert reasons(pipeline)["fused-qkv"] is None


@needs_peft
@pytest.mark.parametrize("name", ["sd15", "sdxl", "wan"])
def test_fused_projections_keep_a_lora(name: str) -> None:
    tiny = PIPELINES[name].build()
    plain = picture(name, tiny)
    pipeline = with_lora(tiny, "transformer" if name == "wan" else "unet")
    expected = picture(name, pipeline)
    assert distance(plain, expected) > 0.01  # the LoRA does something
    with pytest.raises(DoesNotApply, match="adapter"), halftime.applied(pipeline, ["fused-qkv"]):
        pass
    for denoiser in (getattr(pipeline, "unet", None), getattr(pipeline, "transformer", None)):
        if denoiser is not None:
            denoiser.fuse_lora()
    fused = picture(name, pipeline)
    assert distance(fused, expected) < 1e-3
    with halftime.applied(pipeline, ["fused-qkv"]):
        assert distance(picture(name, pipeline), fused) < 1e-4


@pytest.mark.parametrize("name", ["kandinsky5_image", "prx", "ltx2"])
def test_projections_of_other_names_or_widths_are_not_fused(name: str) -> None:
    tiny = {**FAMILIES, **BREADTH}[name]
    assert "diffusers cannot fuse" in str(reasons(tiny.build())["fused-qkv"])


class OwnProcessor:
    """Attention of the user's own."""

    def __call__(self, attn: nn.Module, hidden_states: torch.Tensor, *_: object, **__: object):
        return 0.5 * hidden_states


def test_a_processor_of_ones_own_is_not_replaced() -> None:
    pipeline = PIPELINES["sd15"].build()
    pipeline.unet.set_attn_processor(OwnProcessor())
    assert "processor of your own" in str(reasons(pipeline)["fused-qkv"])


# ---- hooks, casting and quantised weights


def test_weights_without_values_are_not_copied() -> None:
    pipeline = PIPELINES["sd15"].build()
    pipeline.vae.to("meta")
    why = reasons(pipeline)
    assert "without values" in str(why["vae-folded-upsample"])
    assert why["fused-qkv"] is None


def test_layerwise_casting_keeps_its_weights() -> None:
    pipeline = PIPELINES["sd15"].build()
    pipeline.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    why = reasons(pipeline)
    assert all("layerwise" in str(why[fix]) for fix in ("fused-qkv", "denoiser-dtype"))
    assert why["vae-dtype"] is None


def test_forward_hooks_are_not_left_out() -> None:
    pipeline = PIPELINES["sd15"].build()
    hook = pipeline.vae.decoder.conv_in.register_forward_hook(lambda *_: None)
    assert "hooks of torch" in str(reasons(pipeline)["vae-folded-upsample"])
    hook.remove()
    assert reasons(pipeline)["vae-folded-upsample"] is None


def test_fixes_under_sequential_offload_are_right_or_refused() -> None:
    accelerate = pytest.importorskip("accelerate")
    pipeline = PIPELINES["sd15"].build()
    expected = picture("sd15", pipeline)
    for name in ("unet", "vae"):  # what enable_sequential_cpu_offload does to each component
        accelerate.cpu_offload(getattr(pipeline, name), torch.device("cpu"))
    why = reasons(pipeline)
    assert all("offload" in str(why[fix]) for fix in ("fused-qkv", "vae-folded-upsample"))
    with halftime.applied(pipeline, ["schedule-table", "prompt-cache"]):
        assert distance(picture("sd15", pipeline), expected) < 1e-4


# ---- prompt-cache


def embedding(pipeline: DiffusionPipeline) -> torch.Tensor:
    with torch.no_grad():
        return pipeline.encode_prompt("a red apple", "cpu", 1, False)[0]


def changed_and_cached(pipeline: DiffusionPipeline, change) -> None:  # type: ignore[no-untyped-def]
    """After the change the cache gives what the encoder itself gives, and that is another one."""
    with halftime.applied(pipeline, ["prompt-cache"]):
        before = embedding(pipeline)
        assert torch.equal(embedding(pipeline), before)
        assert pipeline.encode_prompt.hits == 1
        change(pipeline)
        inside = embedding(pipeline)
    assert torch.equal(inside, embedding(pipeline))
    assert not torch.equal(inside, before)


def last_weight(pipeline: DiffusionPipeline) -> nn.Parameter:
    return list(pipeline.text_encoder.parameters())[-1]


def add_token(pipeline: DiffusionPipeline) -> None:
    pipeline.tokenizer.add_tokens(["apple"])
    pipeline.text_encoder.resize_token_embeddings(len(pipeline.tokenizer))
    pipeline.text_encoder.get_input_embeddings().weight.data[-1] = 1.0


CHANGES_OF_TEXT = {
    "a write": lambda pipeline: nn.init.ones_(last_weight(pipeline)),
    "a write through data": lambda pipeline: last_weight(pipeline).data.mul_(3).add_(1),
    "a state dict": lambda pipeline: pipeline.text_encoder.load_state_dict(
        {name: weight + 1 for name, weight in pipeline.text_encoder.state_dict().items()}
    ),
    "a token": add_token,
}


@pytest.mark.parametrize("change", CHANGES_OF_TEXT)
def test_a_cached_prompt_is_encoded_anew_after(change: str) -> None:
    changed_and_cached(PIPELINES["sd15"].build(), CHANGES_OF_TEXT[change])


CHANGES_OF_ADAPTERS = {
    "set_adapters": lambda pipeline: pipeline.set_adapters(["style"], [0.3]),
    "disable_lora": lambda pipeline: pipeline.disable_lora(),
    "an adapter's weights": lambda pipeline: nn.init.ones_(
        next(w for n, w in pipeline.text_encoder.named_parameters() if "lora_B" in n)
    ),
}


@needs_peft
@pytest.mark.parametrize("change", CHANGES_OF_ADAPTERS)
def test_a_cached_prompt_is_encoded_anew_after_a_change_of_adapters(change: str) -> None:
    pipeline = with_lora(PIPELINES["sd15"].build(), "text_encoder", "unet")
    changed_and_cached(pipeline, CHANGES_OF_ADAPTERS[change])


@needs_peft
def test_a_cached_prompt_is_encoded_anew_after_fusing() -> None:
    """Fused at half its scale the adapter gives other embeddings."""
    pipeline = with_lora(PIPELINES["sd15"].build(), "text_encoder", "unet")
    changed_and_cached(pipeline, lambda pipeline: pipeline.fuse_lora(lora_scale=0.5))


# ---- step-cache


def cached_evaluations(name: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The pipeline's picture, and its picture under the step cache."""
    pipeline = {**PIPELINES, **FAMILIES}[name].build()
    expected = picture(name, pipeline, **STEPS)
    plan = [Choice(name="step-cache", settings={"threshold": threshold})]
    with halftime.applied(pipeline, plan):
        return expected, picture(name, pipeline, **STEPS)


STEPS: dict[str, object] = {"num_inference_steps": 4}
WITHOUT_CONTEXTS = ["flux_img2img", "flux_kontext", "wan_video_to_video"]


@pytest.mark.parametrize("name", WITHOUT_CONTEXTS)
def test_a_cache_works_where_the_pipeline_sets_no_context(name: str) -> None:
    """With a threshold of 0 every step is evaluated, so the picture is the pipeline's own."""
    expected, inside = cached_evaluations(name, 0.0)
    assert distance(inside, expected) < 1e-5
    expected, inside = cached_evaluations(name, 1e9)
    assert np.isfinite(inside).all()


def test_blocks_that_see_frames_in_turns_are_not_cached() -> None:
    assert "in turns" in str(reasons(FAMILIES["latte"].build())["step-cache"])


def test_two_evaluations_a_step_do_not_answer_for_each_other() -> None:
    """Wan video-to-video evaluates both prompts one after the other: were the second answered from
    the first, guidance would do nothing."""
    pipeline = FAMILIES["wan_video_to_video"].build()
    plan = [Choice(name="step-cache", settings={"threshold": 1e9})]
    with halftime.applied(pipeline, plan):
        weak, strong = (
            picture("wan_video_to_video", pipeline, guidance_scale=scale, **STEPS)
            for scale in (2.0, 9.0)
        )
    assert distance(weak, strong) > 1e-3


def test_a_deep_cache_keeps_conditionings_apart() -> None:
    cache = DeepCache(every=2)
    conditional, unconditional = torch.zeros(2), torch.zeros(2)
    cache.begin()
    skipped = []
    for conditioning in (unconditional, conditional) * 4:
        cache.decide(1, conditioning)
        cache.outputs.setdefault("middle", id(conditioning))
        assert cache.outputs["middle"] == id(conditioning)
        skipped.append(cache.skip)
    assert skipped == [False, False, True, True] * 2


# ---- batch-prompts


@pytest.mark.parametrize(
    "name",
    ["sd15", "kandinsky3", "cosmos_text_to_world", "latte", "cogview3", "hidream", "ovis_image"],
)
@pytest.mark.filterwarnings("ignore:batch-prompts")
def test_batched_prompts_give_the_pipelines_own_picture(name: str) -> None:
    pipeline = {**PIPELINES, **FAMILIES}[name].build()
    if reasons(pipeline)["batch-prompts"]:
        return
    for negative in (None, "", "blue, blurred, and rather long"):
        texts = {} if negative is None else {"negative_prompt": negative}
        expected = picture(name, pipeline, **texts)
        with halftime.applied(pipeline, ["batch-prompts"]):
            for _ in range(2):  # the first call checks, the second relies on it
                assert distance(picture(name, pipeline, **texts), expected) < 1e-3


# ---- lower precision


@pytest.mark.parametrize(
    "name",
    ["animatediff", "text_to_video_sd", "stable_audio", "sd15", "wan", "mochi", "hunyuandit"],
)
def test_a_denoiser_in_bf16_runs_wherever_a_plain_one_does(name: str) -> None:
    """Its own forward casts to `self.dtype`: it must see what it computes in."""
    pipeline = {**PIPELINES, **FAMILIES}[name].build()
    expected = picture(name, pipeline)
    # bf16 in a random StableAudio is further off than the probe lets pass
    with halftime.applied(pipeline, ["denoiser-dtype"], probe=False):
        assert {*(model.dtype for model in denoisers(pipeline))} == {torch.float32}
        assert distance(picture(name, pipeline), expected) < 0.1
    assert np.array_equal(picture(name, pipeline), expected)


class Placed(nn.Linear):
    """A model that is told when and where, as SDXL's and Flux's are."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        timestep_cond: torch.Tensor,
        added_cond_kwargs: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        self.seen = {
            "timestep": timestep,
            "timestep_cond": timestep_cond,
            **added_cond_kwargs,
        }
        return super().forward(hidden_states)


@pytest.mark.parametrize("named", [False, True])
def test_only_features_are_cast(named: bool) -> None:
    """In bf16 timestep 975 would be 976: Mochi's second evaluation was off by 0.09 instead of
    0.005."""
    model, ones = Placed(1, 1), torch.ones(1, 1)
    more = {"time_ids": ones * 1001, "text_embeds": ones}
    with in_dtype(model, "forward", torch.bfloat16):
        if named:
            result = model(
                hidden_states=ones, timestep=ones * 975, timestep_cond=ones, added_cond_kwargs=more
            )
        else:
            result = model(ones, ones * 975, ones, more)
        seen = model.seen
    assert result.dtype == torch.float32
    cast = {name for name, value in seen.items() if value.dtype == torch.bfloat16}
    assert cast == {"timestep_cond", "text_embeds"}
    assert (seen["timestep"], seen["time_ids"]) == (975, 1001)


class SelfCasting(nn.Linear):
    """A model that casts to its own dtype, as UNet2DModel of DDPM does to its time embedding."""

    dtype = property(lambda self: self.weight.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.ones(1, 1).to(self.dtype)) + x


def test_a_model_sees_its_own_dtype_inside_alone() -> None:
    model = SelfCasting(1, 1)
    with in_dtype(model, "forward", torch.bfloat16):
        assert model(torch.ones(1, 1)).dtype == torch.float32
        assert model.dtype == torch.float32
    assert model.dtype == torch.float32
    assert type(model) is SelfCasting


@pytest.mark.parametrize("name", ["sd15_img2img", "sdxl_img2img"])
def test_latents_of_a_picture_stay_in_the_callers_dtype(name: str) -> None:
    pipeline = PIPELINES[name].build()
    expected = picture(name, pipeline)
    with halftime.applied(pipeline, ["vae-dtype"]):
        encoded = pipeline.vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist
        assert {encoded.mean.dtype, encoded.sample().dtype} == {torch.float32}
        assert distance(picture(name, pipeline), expected) < 0.1


# ---- schedulers


def forcing() -> DiffusionPipeline:
    """SkyReels V2's diffusion forcing steps a copy of its scheduler for each frame."""
    parts = FAMILIES["skyreels_v2"].build().components
    pipeline = diffusers.SkyReelsV2DiffusionForcingPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("fix", ["set-begin-index", "schedule-table"])
def test_copies_of_a_scheduler_are_stepped_and_not_the_original(fix: str) -> None:
    pipeline = forcing()
    expected = picture("skyreels_v2", pipeline)
    if reasons(pipeline)[fix]:
        return
    with halftime.applied(pipeline, [fix]):
        assert distance(picture("skyreels_v2", pipeline), expected) < 1e-3
    assert np.array_equal(picture("skyreels_v2", pipeline), expected)


def test_an_audit_of_copied_schedulers_steps_the_copies() -> None:
    assert halftime.audit(forcing(), **FAMILIES["skyreels_v2"].arguments()).steps_seen > 0


@pytest.mark.parametrize("fix", ["set-begin-index", "schedule-table"])
def test_a_copied_scheduler_under_a_fix_steps_itself(fix: str) -> None:
    pipeline = PIPELINES["wan"].build()
    sample = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))

    def stepped(scheduler: object) -> torch.Tensor:
        for timestep in scheduler.timesteps:
            result = scheduler.step(sample, timestep, sample, return_dict=False)[0]
        return result

    pipeline.scheduler.set_timesteps(4)
    expected = stepped(copy.deepcopy(pipeline.scheduler))
    with halftime.FIXES[fix].apply(pipeline, {}):
        pipeline.scheduler.set_timesteps(4)
        first, second = copy.deepcopy(pipeline.scheduler), copy.deepcopy(pipeline.scheduler)
        torch.testing.assert_close(stepped(first), expected)
        torch.testing.assert_close(stepped(second), expected)
        assert pipeline.scheduler.step_index is None


class Logging(diffusers.EulerDiscreteScheduler):
    """A user's own, with a guard in its step."""

    def step(self, *args: object, **kwargs: object) -> object:
        assert torch.isfinite(args[0]).all()
        return super().step(*args, **kwargs)


def test_a_step_of_ones_own_is_not_replaced_by_a_table() -> None:
    pipeline = PIPELINES["sd15"].build()
    pipeline.scheduler = Logging.from_config(pipeline.scheduler.config)
    for fix in ("schedule-table", "loop-graph"):
        assert "Logging.step (" in str(reasons(pipeline)[fix])


def test_a_call_that_compares_its_schedulers_class_keeps_it() -> None:
    pipeline = FAMILIES["bria"].build()
    assert "compares the class" in str(reasons(pipeline)["schedule-table"])


# ---- sharing, nesting, threads


def test_a_component_that_another_pipeline_holds_is_not_changed() -> None:
    pipeline = PIPELINES["sd15"].build()
    sibling = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(pipeline)
    before = picture("sd15_img2img", sibling)
    for fix in ("denoiser-dtype", "vae-dtype", "step-cache"):
        with pytest.raises(DoesNotApply, match="another live pipeline"):
            halftime.applied(pipeline, [fix]).__enter__()
    with halftime.applied(pipeline, ["schedule-table", "prompt-cache"]):  # the pipeline's alone
        assert np.array_equal(picture("sd15_img2img", sibling), before)
    del sibling
    assert reasons(pipeline)["denoiser-dtype"] is None


def test_blocks_left_in_the_other_order_are_undone_all_the_same() -> None:
    pipeline = PIPELINES["sd15"].build()
    before = picture("sd15", pipeline)
    outer = halftime.applied(pipeline, ["denoiser-dtype"])
    outer.__enter__()
    inner = halftime.applied(pipeline, ["fused-qkv", "vae-dtype"])
    inner.__enter__()
    with pytest.raises(DoesNotApply, match="Leave the inner block first"):
        outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    assert {weight.dtype for weight in pipeline.unet.parameters()} == {torch.float32}
    assert np.array_equal(picture("sd15", pipeline), before)
    assert type(pipeline) is diffusers.StableDiffusionPipeline


def test_two_threads_do_not_share_a_step_cache() -> None:
    pipeline = PIPELINES["sd15"].build()
    errors: list[BaseException] = []

    def call() -> None:
        try:
            picture("sd15", pipeline)
        except DoesNotApply as error:
            errors.append(error)

    def from_a_thread(*_: object) -> dict[str, object]:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return {}

    with halftime.applied(pipeline, ["step-cache"]):
        expected = picture("sd15", pipeline)
        inside = picture("sd15", pipeline, callback_on_step_end=from_a_thread)
    assert np.array_equal(inside, expected)
    assert "another thread" in str(errors[0])


def test_a_pipeline_made_inside_the_block_does_not_read_the_step_cache() -> None:
    pipeline = PIPELINES["sd15"].build()
    arguments = PIPELINES["sd15_img2img"].arguments
    plain = diffusers.StableDiffusionImg2ImgPipeline(**pipeline.components)
    expected = np.asarray(plain(**arguments())[0])
    del plain
    with halftime.applied(pipeline, ["step-cache"]):
        picture("sd15", pipeline)
        sibling = diffusers.StableDiffusionImg2ImgPipeline(**pipeline.components)
        assert np.array_equal(np.asarray(sibling(**arguments())[0]), expected)


# ---- inside the block


def test_what_a_block_would_lose_is_refused_inside(tmp_path: Path) -> None:
    pipeline = PIPELINES["sd15"].build()
    with halftime.applied(pipeline, ["denoiser-dtype", "schedule-table"]):
        for refused in (
            lambda: pipeline.save_pretrained(tmp_path),
            lambda: copy.deepcopy(pipeline),
            lambda: pipeline.set_adapters(["style"]),
            lambda: pipeline.unet.set_adapters(["style"]),
            lambda: setattr(pipeline, "scheduler", copy.deepcopy(pipeline.scheduler)),
            lambda: setattr(pipeline, "unet", None),
        ):
            with pytest.raises(DoesNotApply, match="Leave the block"):
                refused()
        pipeline.safety_checker = None  # what no fix works on may be exchanged, and stays so
    pipeline.save_pretrained(tmp_path)
    assert copy.deepcopy(pipeline) is not pipeline
    assert "set_adapters" not in vars(pipeline.unet)


@needs_peft
def test_adapters_set_inside_stay_where_no_fix_changes_a_component() -> None:
    pipeline = with_lora(PIPELINES["sd15"].build(), "unet")
    with halftime.applied(pipeline, ["prompt-cache", "schedule-table"]):
        pipeline.set_adapters(["style"], [0.3])
        inside = picture("sd15", pipeline)
    assert distance(picture("sd15", pipeline), inside) < 1e-3


# ---- levels


def test_tiles_stay_when_slicing_goes() -> None:
    pipeline = PIPELINES["sd15"].build()
    pipeline.vae.enable_tiling()
    assert "its tiles stay" in str(reasons(pipeline)["vae-slicing-off"])
    pipeline.vae.enable_slicing()
    with halftime.applied(pipeline, ["vae-slicing-off"]):
        assert (pipeline.vae.use_slicing, pipeline.vae.use_tiling) == (False, True)
    assert pipeline.vae.use_slicing


def test_slicing_off_leaves_allegro_its_tiles() -> None:
    pipeline = FAMILIES["allegro"].build()
    pipeline.vae.use_slicing = True
    expected = picture("allegro", pipeline)
    with halftime.applied(pipeline, ["vae-slicing-off"]):
        assert distance(picture("allegro", pipeline), expected) < 1e-3


def test_a_warm_up_that_fails_is_a_refusal() -> None:
    """Flux.2 reads layers that a small encoder has not: an IndexError in its own code."""
    pipeline = FAMILIES["flux2"].build()
    with pytest.raises(DoesNotApply, match="text-warmup"):
        halftime.applied(pipeline, ["text-warmup"]).__enter__()


# ---- the probe


def breaking(level: str, factor: float) -> halftime.fix.base.Fix:
    """A fix of that level that multiplies what the VAE decodes."""

    @contextmanager
    def apply(pipeline: DiffusionPipeline, settings: object) -> Iterator[None]:
        decode = pipeline.vae.decode

        def multiplied(*args: object, **kwargs: object) -> object:
            return tuple(factor * part for part in decode(*args, **kwargs)[:1])

        with patched(pipeline.vae, "decode", multiplied):
            yield

    fix = halftime.FIXES["set-begin-index" if level == "bit-exact" else "schedule-table"]
    return structs.replace(fix, apply=apply, applies=lambda *_: None)


@pytest.mark.parametrize(("level", "factor"), [("bit-exact", 1.1), ("equivalent", 1.1)])
def test_a_fix_beyond_its_level_is_refused_with_the_figure(level: str, factor: float) -> None:
    pipeline = PIPELINES["sd15"].build()
    before = picture("sd15", pipeline)
    broken = ChosenFix(breaking(level, factor), {})
    whole = ChosenFix(halftime.FIXES["vae-folded-upsample"], {})
    words = rf"{broken.fix.name}' is not '{level}' on this pipeline as it is: .* off by [0-9.e-]+"
    for plan in ([broken], [broken, whole]):
        with pytest.raises(DoesNotApply, match=words):
            check_levels(pipeline, plan)
    assert np.array_equal(picture("sd15", pipeline), before)


def test_bit_exact_is_the_same_bytes() -> None:
    with pytest.raises(DoesNotApply, match="0 is allowed"):
        check_levels(PIPELINES["sd15"].build(), [ChosenFix(breaking("bit-exact", 1.0001), {})])


def test_a_fix_under_which_the_call_fails_is_refused() -> None:
    fix = structs.replace(breaking("equivalent", 1.0), apply=lambda *_: failing())
    with pytest.raises(DoesNotApply, match="the call fails under it"):
        check_levels(PIPELINES["sd15"].build(), [ChosenFix(fix, {})])


@contextmanager
def failing() -> Iterator[None]:
    def fail(*_: object, **__: object) -> object:
        raise RuntimeError("in the middle")

    with patched(diffusers.AutoencoderKL, "decode", fail):
        yield


@pytest.mark.parametrize("others", [[], ["vae-folded-upsample"]])
def test_a_fix_that_promises_no_equal_picture_shows_that_the_call_runs(others: list[str]) -> None:
    """SANA-Sprint's call takes two steps and no other number."""
    pipeline = FAMILIES["sana_sprint"].build()
    plan = [Choice(name="solver-steps", settings={"steps": 8}), *others]
    with pytest.raises(DoesNotApply, match=r"'solver-steps' does not work .* probe of 3 steps"):
        check_levels(pipeline, choose(read_plan(plan)))


def test_a_probe_is_two_calls_made_once_and_leaves_no_trace() -> None:
    pipeline = PIPELINES["sd15"].build()
    calls: list[int] = []

    def counted(_: object, step: Callable[..., object], *args: object, **kwargs: object) -> object:
        calls.append(1)
        return step(*args, **kwargs)

    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with method_wrapped(pipeline.vae, "decode", counted):
        attributes, scheduler = dict(vars(pipeline)), dict(vars(pipeline.scheduler))
        for _ in range(2):
            with halftime.applied(pipeline, ["vae-folded-upsample"]):
                assert len(calls) == 2
        assert (vars(pipeline), vars(pipeline.scheduler)) == (attributes, scheduler)
        with halftime.applied(pipeline, ["vae-channels-last"], probe=False):
            assert len(calls) == 2
    assert torch.equal(torch.rand(2), expected)


def test_a_guess_that_fails_in_its_middle_leaves_no_trace() -> None:
    """PAG sets processors of its own at the beginning of a call, and takes them back at its end."""
    tiny = FAMILIES["hunyuandit_pag"]
    pipeline = tiny.build()
    expected, before = drawing(lambda: pipeline(**tiny.arguments())), fingerprint(pipeline)
    with pytest.warns(HalftimeWarning, match="not probed"):
        check_levels(pipeline, choose(read_plan(["vae-channels-last"])))
    assert changes(before, fingerprint(pipeline)) == []
    assert np.array_equal(drawing(lambda: pipeline(**tiny.arguments())), expected)


def test_the_state_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads every object of the process, a quarter of a second in a large one."""
    pipeline = PIPELINES["sd15"].build()
    chosen = choose(Plan(fixes=(Choice(name="vae-channels-last"),)))
    recipe = Recipe(
        architecture=architecture(pipeline),
        fixes=(Choice(name="vae-channels-last"),),
        probed="of another state",
    )
    key = probe_key(pipeline, chosen)
    scans: list[int] = []
    original = gc.get_objects
    monkeypatch.setattr(gc, "get_objects", lambda *args: scans.append(1) or original(*args))
    for plan in (["vae-channels-last"], recipe, structs.replace(recipe, probed=key)):
        scans.clear()
        with halftime.applied(pipeline, plan):
            assert len(scans) == 1


def test_a_recipe_brings_its_own_probe() -> None:
    pipeline = PIPELINES["sd15"].build()
    chosen = choose(Plan(fixes=(Choice(name="vae-dtype"),)))
    key = probe_key(pipeline, chosen)
    pipeline.unet.compile(backend="eager")
    assert probe_key(pipeline, chosen) != key


@pytest.mark.parametrize("name", ["sd15", "sd15_img2img", "sd15_inpaint", "sd3", "wan", "ltx"])
def test_a_short_call_can_be_guessed(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", HalftimeWarning)
        with halftime.applied(PIPELINES[name].build(), ["vae-channels-last"]):
            pass
