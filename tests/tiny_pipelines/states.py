"""States into which users bring a pipeline, on five of the tiny families.

`STATES['lora']` changes a pipeline and says what its call needs then. What needs peft, accelerate
or a quantiser is there only where that is installed (`missing`).
"""

from __future__ import annotations

import copy
import importlib.util
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import nn

import tiny_pipelines
from fix_cells import STEPS, Cell, Subject, error_line
from halftime.base.errors import HalftimeError
from halftime.pipeline.components import denoisers
from halftime.records import Workload
from halftime.verbs.audit.run import audit
from halftime.verbs.profile.run import profile
from tiny_pipelines import parts

BASES = ("sd15", "flux", "wan", "sdxl", "sd3")
UNETS = ("sd15", "sdxl")


@dataclass
class Subjected:
    """A pipeline in a state: what its call needs more, and what else it must not disturb."""

    pipeline: Any
    arguments: dict[str, object] = field(default_factory=dict)
    without: tuple[str, ...] = ()  # arguments that the call no longer takes
    neighbour: Callable[[], object] | None = None  # a call of another pipeline, as it was
    coarse: float = 0.0  # what 'equivalent' is in the precision of the state
    keep: tuple[object, ...] = ()  # objects that must stay alive
    call: Callable[[], object] | None = None  # in place of the pipeline's own call


@dataclass(frozen=True)
class State:
    """`enter(pipeline)` brings a pipeline into it."""

    enter: Callable[[Any], Subjected]
    bases: tuple[str, ...] = BASES
    needs: str = ""  # a package


# ---- adapters


def _lora(pipeline: Any, name: str = "first") -> None:
    from peft import LoraConfig

    for index, model in enumerate(denoisers(pipeline)):
        torch.manual_seed(index + len(name))
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        model.add_adapter(  # type: ignore[operator]
            LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False), name
        )


def lora(pipeline: Any) -> Subjected:
    _lora(pipeline)
    return Subjected(pipeline)


def lora_text_encoder(pipeline: Any) -> Subjected:
    from peft import LoraConfig

    torch.manual_seed(1)
    targets = ["q_proj", "v_proj"] if "CLIP" in type(pipeline.text_encoder).__name__ else ["q", "v"]
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    pipeline.text_encoder.add_adapter(config)
    return Subjected(pipeline)


def lora_fused(pipeline: Any) -> Subjected:
    _lora(pipeline)
    pipeline.fuse_lora(components=[_denoiser_name(pipeline)])
    return Subjected(pipeline)


def lora_fused_unloaded(pipeline: Any) -> Subjected:
    lora_fused(pipeline)
    pipeline.unload_lora_weights()
    return Subjected(pipeline)


def two_adapters(pipeline: Any) -> Subjected:
    _lora(pipeline, "first")
    _lora(pipeline, "second one")
    _denoiser(pipeline).set_adapters(["first", "second one"], [0.7, 0.4])
    return Subjected(pipeline)


def lora_disabled(pipeline: Any) -> Subjected:
    _lora(pipeline)
    _denoiser(pipeline).disable_adapters()
    return Subjected(pipeline)


def ip_adapter(pipeline: Any) -> Subjected:
    unet = pipeline.unet
    torch.manual_seed(2)
    width = unet.config.cross_attention_dim
    keys: dict[str, torch.Tensor] = {}
    number = 1
    for name in unet.attn_processors:
        if name.endswith("attn1.processor"):
            continue
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("to_k_ip", "to_v_ip"):
            keys[f"{number}.{part}.weight"] = torch.randn(attention.to_k.out_features, width) / 4
        number += 2
    projection = {
        "proj.weight": torch.randn(4 * width, parts.WIDTH) / 4,
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": keys}])
    embeds = tiny_pipelines.embedding(2, 1, parts.WIDTH)
    return Subjected(pipeline, {"ip_adapter_image_embeds": [embeds]})


def textual_inversion(pipeline: Any) -> Subjected:
    embedding = tiny_pipelines.embedding(parts.WIDTH)
    pipeline.load_textual_inversion(
        embedding, token="<new>", text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer
    )
    if hasattr(pipeline, "tokenizer_2"):
        pipeline.load_textual_inversion(
            embedding,
            token="<new>",
            text_encoder=pipeline.text_encoder_2,
            tokenizer=pipeline.tokenizer_2,
        )
    return Subjected(pipeline, {"prompt": "a <new> apple"})


# ---- what diffusers switches


def freeu(pipeline: Any) -> Subjected:
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return Subjected(pipeline)


class Damped:
    """An attention processor of the user's own, around the model's."""

    def __init__(self, inner: Callable[..., Any]) -> None:
        self.inner = inner

    def __call__(self, attn: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = self.inner(attn, *args, **kwargs)
        return tuple(part * 0.8 for part in result) if isinstance(result, tuple) else result * 0.8


def custom_processors(pipeline: Any) -> Subjected:
    for model in denoisers(pipeline):
        processors = {name: Damped(inner) for name, inner in model.attn_processors.items()}  # type: ignore[union-attr, operator]
        model.set_attn_processor(processors)  # type: ignore[operator]
    return Subjected(pipeline)


def attention_slicing(pipeline: Any) -> Subjected:
    pipeline.enable_attention_slicing(1)
    return Subjected(pipeline)


def fused_projections(pipeline: Any) -> Subjected:
    _denoiser(pipeline).fuse_qkv_projections()
    return Subjected(pipeline)


def vae_tiling(pipeline: Any) -> Subjected:
    vae = pipeline.vae
    vae.enable_tiling()
    for name, value in (("tile_sample_min_size", 16), ("tile_latent_min_size", 8)):
        if hasattr(vae, name):
            setattr(vae, name, value)
    for side in ("height", "width"):
        if hasattr(vae, f"tile_sample_min_{side}"):
            setattr(vae, f"tile_sample_min_{side}", 8)
            setattr(vae, f"tile_sample_stride_{side}", 8)
    return Subjected(pipeline)


def vae_slicing(pipeline: Any) -> Subjected:
    pipeline.vae.enable_slicing()
    return Subjected(pipeline, {"prompt": [tiny_pipelines.PROMPT, "a cat"]})


def step_cached(pipeline: Any) -> Subjected:
    _denoiser(pipeline).enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.01))
    return Subjected(pipeline)


# ---- hooks


def group_offload(pipeline: Any) -> Subjected:
    from diffusers.hooks import apply_group_offloading

    cpu = torch.device("cpu")
    for model in denoisers(pipeline):
        apply_group_offloading(
            model, onload_device=cpu, offload_device=cpu, offload_type="leaf_level"
        )
    return Subjected(pipeline)


def model_offload(pipeline: Any) -> Subjected:
    from accelerate import cpu_offload_with_hook

    hook = None
    for name in pipeline.model_cpu_offload_seq.split("->"):
        model = getattr(pipeline, name, None)
        if isinstance(model, nn.Module):
            _, hook = cpu_offload_with_hook(model, torch.device("cpu"), prev_module_hook=hook)
    return Subjected(pipeline)


def sequential_offload(pipeline: Any) -> Subjected:
    from accelerate import cpu_offload

    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            cpu_offload(component, torch.device("cpu"), offload_buffers=True)
    return Subjected(pipeline)


def layerwise_casting(pipeline: Any) -> Subjected:
    for model in denoisers(pipeline):
        model.enable_layerwise_casting(  # type: ignore[operator]
            storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
        )
    return Subjected(pipeline)


def forward_hook(pipeline: Any) -> Subjected:
    """A hook of the user's own that changes what the denoiser gives."""

    def damp(module: nn.Module, args: object, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] * 0.9, *output[1:])
        output.sample = output.sample * 0.9
        return output

    _denoiser(pipeline).register_forward_hook(damp)
    return Subjected(pipeline)


# ---- weights


def torchao(pipeline: Any) -> Subjected:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(_denoiser(pipeline), Int8WeightOnlyConfig())
    return Subjected(pipeline)


def quanto(pipeline: Any) -> Subjected:
    from optimum.quanto import freeze, qint8, quantize

    quantize(_denoiser(pipeline), weights=qint8)
    freeze(_denoiser(pipeline))
    return Subjected(pipeline)


def _linears(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    return [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if type(child) is nn.Linear
    ]


def gguf(pipeline: Any) -> Subjected:
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType.Q8_0
    for holder, name, linear in _linears(_denoiser(pipeline)):
        if linear.in_features % 32:
            continue
        layer = GGUFLinear(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            compute_dtype=torch.float32,
        )
        content = quants.quantize(linear.weight.detach().numpy(), kind)
        layer.weight = GGUFParameter(torch.from_numpy(content), quant_type=kind)
        layer.bias = linear.bias
        setattr(holder, name, layer)
    return Subjected(pipeline)


def bitsandbytes_8bit(pipeline: Any) -> Subjected:
    import bitsandbytes

    for holder, name, linear in _linears(_denoiser(pipeline)):
        layer = bitsandbytes.nn.Linear8bitLt(
            linear.in_features, linear.out_features, linear.bias is not None, has_fp16_weights=False
        )
        layer.load_state_dict(linear.state_dict())
        setattr(holder, name, layer.to("cpu").eval())
    return Subjected(pipeline)


def float16(pipeline: Any) -> Subjected:
    return Subjected(pipeline.to(torch.float16), coarse=0.05)


def bfloat16(pipeline: Any) -> Subjected:
    return Subjected(pipeline.to(torch.bfloat16), coarse=0.2)


def vae_in_float32(pipeline: Any) -> Subjected:
    pipeline.to(torch.bfloat16)
    pipeline.vae.to(torch.float32)
    return Subjected(pipeline, coarse=0.2)


def compiled_denoiser(pipeline: Any) -> Subjected:
    _denoiser(pipeline).compile(backend="eager")
    return Subjected(pipeline)


def compiled_wrapped(pipeline: Any) -> Subjected:
    name = _denoiser_name(pipeline)
    setattr(pipeline, name, torch.compile(getattr(pipeline, name), backend="eager"))
    return Subjected(pipeline)


def compiled_vae(pipeline: Any) -> Subjected:
    pipeline.vae.decode = torch.compile(pipeline.vae.decode, backend="eager")
    return Subjected(pipeline)


# ---- sharing and composition


def shared(pipeline: Any) -> Subjected:
    """Another pipeline, alive, on the same models."""
    second = type(pipeline).from_pipe(pipeline)
    second.scheduler = copy.deepcopy(pipeline.scheduler)
    second.set_progress_bar_config(disable=True)
    return Subjected(pipeline, neighbour=lambda: second, keep=(second,))


def from_pipe(pipeline: Any) -> Subjected:
    """Made from another pipeline that is gone."""
    second = type(pipeline).from_pipe(pipeline)
    second.set_progress_bar_config(disable=True)
    return Subjected(second)


def threads(pipeline: Any) -> Subjected:
    """Two threads, each with its own pipeline, draw at once."""
    second = copy.deepcopy(pipeline)
    return Subjected(pipeline, call=None, neighbour=None, keep=(second,))


def none_components(pipeline: Any) -> Subjected:
    """Without text encoders: the embeddings are given."""
    signature = {"prompt": tiny_pipelines.PROMPT, "device": "cpu"}
    if "num_images_per_prompt" in _parameters(pipeline.encode_prompt):
        signature["num_images_per_prompt"] = 1
    kind = type(pipeline).__name__
    if kind == "StableDiffusion3Pipeline":
        pipeline.text_encoder_3 = pipeline.tokenizer_3 = None
        return Subjected(pipeline)
    if kind == "FluxPipeline":
        with torch.no_grad():
            embeds, pooled, _ = pipeline.encode_prompt(
                prompt=tiny_pipelines.PROMPT, prompt_2=None, max_sequence_length=16
            )
        given = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    else:
        with torch.no_grad():
            encoded = pipeline.encode_prompt(
                **signature,
                do_classifier_free_guidance=True,
                **({"max_sequence_length": 16} if kind == "WanPipeline" else {}),
            )
        names = ("prompt_embeds", "negative_prompt_embeds")
        if kind == "StableDiffusionXLPipeline":
            names += ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        given = dict(zip(names, encoded, strict=True))
    for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"):
        if hasattr(pipeline, name):
            setattr(pipeline, name, None)
    return Subjected(pipeline, given, without=("prompt",))


def _parameters(function: Callable[..., object]) -> set[str]:
    import inspect

    return set(inspect.signature(function).parameters)


def own_scheduler(pipeline: Any) -> Subjected:
    """A subclass of the scheduler whose `step` does something of its own."""
    original = type(pipeline.scheduler)

    class Guarded(original):  # type: ignore[misc, valid-type]
        steps = 0

        def step(self, model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            type(self).steps += 1
            return super().step(model_output * 0.95, *args, **kwargs)

    Guarded.__name__ = original.__name__
    pipeline.scheduler = Guarded.from_config(pipeline.scheduler.config)
    return Subjected(pipeline)


# ---- calls


def callback(pipeline: Any) -> Subjected:
    """A callback that writes the latents."""

    def damp(_: object, step: int, timestep: object, values: dict[str, Any]) -> dict[str, Any]:
        return {"latents": values["latents"] * 0.9}

    return Subjected(pipeline, {"callback_on_step_end": damp})


def two_prompts(pipeline: Any) -> Subjected:
    return Subjected(pipeline, {"prompt": [tiny_pipelines.PROMPT, "a cat"]})


def two_pictures(pipeline: Any) -> Subjected:
    name = "num_videos_per_prompt" if type(pipeline).__name__ == "WanPipeline" else ""
    return Subjected(pipeline, {name or "num_images_per_prompt": 2})


def no_guidance(pipeline: Any) -> Subjected:
    return Subjected(pipeline, {"guidance_scale": 1.0})


def negative_prompt(pipeline: Any) -> Subjected:
    return Subjected(pipeline, {"negative_prompt": "a cat"})


def latents_out(pipeline: Any) -> Subjected:
    return Subjected(pipeline, {"output_type": "latent"})


def interrupted(pipeline: Any) -> Subjected:
    """Stopped after its first step, by the pipeline's own flag."""

    def stop(called: Any, step: int, timestep: object, values: dict[str, Any]) -> dict[str, Any]:
        called._interrupt = True
        return values

    return Subjected(pipeline, {"callback_on_step_end": stop})


STATES: dict[str, State] = {
    "lora": State(lora, needs="peft"),
    "lora on the text encoder": State(lora_text_encoder, needs="peft"),
    "lora fused": State(lora_fused, needs="peft"),
    "lora fused and unloaded": State(lora_fused_unloaded, needs="peft"),
    "two adapters": State(two_adapters, needs="peft"),
    "lora disabled": State(lora_disabled, needs="peft"),
    "ip-adapter": State(ip_adapter, UNETS),
    "textual inversion": State(textual_inversion, UNETS),
    "freeu": State(freeu, UNETS),
    "custom processors": State(custom_processors),
    "attention slicing": State(attention_slicing, UNETS),
    "fused projections": State(fused_projections),
    "vae tiling": State(vae_tiling),
    "vae slicing": State(vae_slicing),
    "step cache on": State(step_cached, ("flux", "wan")),
    "group offload": State(group_offload, needs="accelerate"),
    "model offload": State(model_offload, needs="accelerate"),
    "sequential offload": State(sequential_offload, needs="accelerate"),
    "layerwise casting": State(layerwise_casting),
    "forward hook": State(forward_hook),
    "torchao int8": State(torchao, needs="torchao"),
    "quanto int8": State(quanto, needs="optimum.quanto"),
    "gguf": State(gguf, ("sd15", "sdxl", "flux", "sd3"), "gguf"),
    "bitsandbytes 8 bit": State(bitsandbytes_8bit, needs="bitsandbytes"),
    # bitsandbytes packs 4 bits on CPUs only for layers wider than these: not here.
    "float16": State(float16),
    "bfloat16": State(bfloat16),
    "bfloat16, vae in float32": State(vae_in_float32, ("wan",)),
    "compiled in place": State(compiled_denoiser),
    "compiled and wrapped": State(compiled_wrapped),
    "compiled vae decode": State(compiled_vae),
    "shared": State(shared),
    "from_pipe": State(from_pipe),
    "threads": State(threads),
    "None components": State(none_components),
    "own scheduler step": State(own_scheduler),
    "callback": State(callback),
    "two prompts": State(two_prompts),
    "two pictures a prompt": State(two_pictures),
    "no guidance": State(no_guidance),
    "negative prompt": State(negative_prompt, ("sd15", "sdxl", "sd3", "wan")),
    "latents out": State(latents_out),
    "interrupted": State(interrupted),
}


def _denoiser(pipeline: Any) -> Any:
    return denoisers(pipeline)[0]


def _denoiser_name(pipeline: Any) -> str:
    return "unet" if hasattr(pipeline, "unet") else "transformer"


def missing(state: str) -> str:
    """The package that a state needs and that is not installed, or ''."""
    package = STATES[state].needs
    if not package:
        return ""
    try:
        return "" if importlib.util.find_spec(package) is not None else package
    except ModuleNotFoundError:  # of a parent
        return package


def rows() -> list[str]:
    """'sd15, lora' of every row that can be measured here."""
    return [
        f"{base}, {name}"
        for base in BASES
        for name, state in STATES.items()
        if base in state.bases and not missing(name)
    ]


# ---- a row


def entered(row: str) -> tuple[Subjected, Callable[[], object], dict[str, object]]:
    """The pipeline of a row in its state, its call, and the arguments of that."""
    base, _, state = row.partition(", ")
    tiny = tiny_pipelines.PIPELINES[base]
    subject = STATES[state].enter(tiny.build())

    def arguments() -> dict[str, object]:
        given = {**tiny.arguments(STEPS), **subject.arguments}
        return {name: value for name, value in given.items() if name not in subject.without}

    def call() -> object:
        return subject.pipeline(**arguments())

    if state == "threads":
        call = _with_a_second(subject, arguments)
    if subject.neighbour is not None:
        second = subject.neighbour()
        subject.neighbour = lambda: second(**arguments())  # type: ignore[operator]
    return subject, call, arguments()


def _with_a_second(
    subject: Subjected, arguments: Callable[[], dict[str, object]]
) -> Callable[[], object]:
    """A call of the pipeline while its copy draws in another thread."""

    def call() -> object:
        results: list[object] = []
        errors: list[BaseException] = []

        def other() -> None:
            try:
                results.append(subject.keep[0](**arguments()))  # type: ignore[operator]
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        own = subject.pipeline(**arguments())
        thread.join()
        if errors:
            raise errors[0]
        return [own, *results]

    return call


def measure(row: str, fixes: Collection[str] = ()) -> dict[str, Any]:
    """Profile, audit, and every fix; or these fixes alone."""
    subject, call, arguments = entered(row)
    judged = Subject(subject.pipeline, call, coarse=subject.coarse, neighbour=subject.neighbour)
    cells = {fix: cell.plain() for fix, cell in judged.row(fixes=fixes).items()}
    if fixes:
        return {"cells": cells}
    checks = {
        "profile": _profiled(judged, arguments).plain(),
        "audit": _audited(judged, arguments).plain(),
    }
    return {"class": type(subject.pipeline).__name__, **checks, "cells": cells}


def _profiled(judged: Subject, arguments: dict[str, object]) -> Cell:
    given = {
        name: value
        for name, value in arguments.items()
        if name not in ("generator", "num_inference_steps", "prompt")
    }
    prompts = arguments.get("prompt", tiny_pipelines.PROMPT)
    workload = Workload(
        steps=STEPS,
        prompts=(prompts,) if isinstance(prompts, str) else tuple(prompts),  # type: ignore[arg-type]
    )
    original = type(judged.pipeline).__call__
    try:
        with _given(judged.pipeline, given):
            session = profile(judged.pipeline, workload, runs=2, warmup=0, probes=False)  # type: ignore[arg-type]
    except HalftimeError as error:
        return judged.undone(Cell("refuses", str(error)))
    except Exception as error:
        return judged.undone(Cell("fails", error_line(error)))
    assert type(judged.pipeline).__call__ is original
    stages = {row.stage for row in session.ledger}
    total = sum(row.seconds for row in session.ledger)
    if abs(total - session.wall_seconds) > 0.01 * session.wall_seconds:
        return Cell("fails", f"stages add up to {total:.4f} s of {session.wall_seconds:.4f} s")
    lacking = {"denoise"} - stages
    if lacking:
        return Cell("fails", f"no stage {', '.join(lacking)} among {', '.join(sorted(stages))}")
    return judged.undone(Cell("applies"))


def _given(pipeline: Any, given: dict[str, object]) -> Any:
    from halftime.pipeline.change import intercepted

    return intercepted(pipeline, lambda kwargs: {**kwargs, **given})


def _audited(judged: Subject, arguments: dict[str, object]) -> Cell:
    try:
        result = audit(judged.pipeline, Workload(steps=STEPS), **arguments)  # type: ignore[arg-type]
    except HalftimeError as error:
        return judged.undone(Cell("refuses", str(error)))
    except Exception as error:
        return judged.undone(Cell("fails", error_line(error)))
    if not result.steps_seen:
        return judged.undone(Cell("fails", "no denoising step was seen"))
    return judged.undone(Cell("applies"))
