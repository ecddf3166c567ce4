"""One stack in its own process: a request in a line of JSON on stdin, its seconds on stdout.

Each peer lives in the environment that it needs, so this file imports nothing of halftime's unless
the stack is one of halftime's, and nothing else at its top. `benchmarks.contest` starts the workers
and lets them take turns.

    PYTHON benchmarks/contestant.py STACK --model FOLDER --steps 30 --guidance 2.5 --threads 1

A request is {"prompt": …, "seed": …, "picture": FILE.npy}, the answer {"seconds": …}.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import sys
import time

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "optimum-intel",
    "optimum-onnx",
    "openvino",
    "onnxruntime",
    "pruna",
    "DeepCache",
    "cache-dit",
    "stable-diffusion-cpp-python",
)


DECLARED = []  # operators


# ---- pipelines of diffusers' kind, ready for their first call


def diffusers_default(options):
    import torch
    from diffusers import DiffusionPipeline

    # The weights are stored in fp16, so the dtype must be named.
    return loaded(DiffusionPipeline, options, torch.float32)


def loaded(cls, options, dtype):
    import torch

    torch.set_num_threads(options.threads)
    return cls.from_pretrained(options.model, torch_dtype=dtype)


def torch_bf16(options):
    import torch
    from diffusers import DiffusionPipeline

    pipe = loaded(DiffusionPipeline, options, torch.bfloat16)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    return pipe


def torch_compile(options):
    """As diffusers' guide says: bf16, channels_last, fused projections, compiled UNet and decode;
    frozen, on a CPU."""
    os.environ["TORCHINDUCTOR_FREEZING"] = "1"
    import torch

    pipe = torch_bf16(options)
    pipe.fuse_qkv_projections()
    pipe.unet = torch.compile(pipe.unet, fullgraph=True)
    pipe.vae.decode = torch.compile(pipe.vae.decode, fullgraph=True)
    return pipe


def optimum_openvino(options, static=True):
    from optimum.intel import OVStableDiffusionXLPipeline

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(options.threads),
        "INFERENCE_PRECISION_HINT": "bf16",
    }
    pipe = OVStableDiffusionXLPipeline.from_pretrained(
        options.model, export=True, compile=False, ov_config=config
    )
    if static:
        pipe.reshape(batch_size=1, height=options.size, width=options.size, num_images_per_prompt=1)
    pipe.compile()
    return pipe


def optimum_openvino_dynamic(options):
    return optimum_openvino(options, static=False)


def optimum_onnx(options):
    import onnxruntime
    from optimum.onnxruntime import ORTStableDiffusionXLPipeline

    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = options.threads
    return ORTStableDiffusionXLPipeline.from_pretrained(
        options.model, export=True, session_options=session
    )


def pruna(options):
    os.environ["TORCHINDUCTOR_FREEZING"] = "1"
    return smashed(torch_bf16, options, ["torch_compile"])


def pruna_deepcache(options):
    return smashed(diffusers_default, options, {"deepcache": {"interval": options.every}})


def smashed(prepare, options, algorithms):
    import_torchvision()  # first: diffusers looks for it
    from pruna import SmashConfig, smash

    return smash(model=prepare(options), smash_config=SmashConfig(algorithms, device="cpu"))


def import_torchvision():
    """PyPI's torchvision is built for CUDA: beside a CPU build of torch its kernels do not load and
    its import fails since `nms` is not there. Pruna calls neither; both are declared."""
    import torch

    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DECLARED.append(library)  # it is gone with its object
        importlib.import_module("torchvision")


def deepcache(options):
    """As its page shows it."""
    from DeepCache import DeepCacheSDHelper

    pipe = diffusers_default(options)
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=options.every, cache_branch_id=0)
    helper.enable()
    return pipe


def cache_dit(options):
    """With its defaults."""
    import cache_dit

    pipe = diffusers_default(options)
    cache_dit.enable_cache(pipe)
    return pipe


def halftime_recipe(options):
    import halftime

    return options.stack_of_contexts.enter_context(
        halftime.applied(diffusers_default(options), options.recipe)
    )


PIPELINES = (
    diffusers_default,
    torch_bf16,
    torch_compile,
    optimum_openvino,
    optimum_openvino_dynamic,
    optimum_onnx,
    pruna,
    pruna_deepcache,
    deepcache,
    cache_dit,
    halftime_recipe,
)


# ---- and others


def stable_diffusion_cpp(options):
    """From the same folder, with torch's random numbers and the sigmas that its scheduler has."""
    import numpy
    from stable_diffusion_cpp import StableDiffusion

    model = StableDiffusion(
        model_path=options.model,
        n_threads=options.threads,
        rng_type="cpu",
        sampler_rng_type="cpu",
        vae_decode_only=True,
        verbose=False,
        **json.loads(options.extra),
    )

    def draw(prompt, seed):
        images = model.generate_image(
            prompt=prompt,
            width=options.size,
            height=options.size,
            cfg_scale=options.guidance,
            sample_method="euler",
            sigmas=options.sigmas,
            sample_steps=options.steps,
            seed=seed,
        )
        return numpy.asarray(images[0].convert("RGB"), dtype=numpy.float32)[None] / 255

    return draw


def from_pipeline(prepare):
    return lambda options: drawing(options, prepare(options))


STACKS = {prepare.__name__: from_pipeline(prepare) for prepare in PIPELINES}
STACKS["stable_diffusion_cpp"] = stable_diffusion_cpp


def drawing(options, pipe):
    """How a pipeline of diffusers' kind draws."""
    import torch

    torch.set_num_threads(options.threads)

    def draw(prompt, seed):
        return pipe(
            prompt,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            height=options.size,
            width=options.size,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images

    return draw


def versions():
    installed = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def peak_bytes():
    """Of this process; getrusage's begins with that of whoever started it."""
    with open("/proc/self/status") as status:
        kilobytes = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    return 1024 * int(kilobytes)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack", choices=STACKS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--recipe")
    parser.add_argument(
        "--every", type=int, default=2, help="of a cache: the steps between full ones"
    )
    parser.add_argument("--sigmas", help="of stable-diffusion.cpp: 14.6,…,0")
    parser.add_argument("--extra", default="{}", help="its further settings, in JSON")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warm-ups", type=int, default=3)
    options = parser.parse_args()
    options.stack_of_contexts = contextlib.ExitStack()
    answers = os.fdopen(os.dup(1), "w")  # libraries print; only answers go to stdout
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    import numpy

    start = time.perf_counter()
    with options.stack_of_contexts:
        draw = STACKS[options.stack](options)
        for _ in range(options.warm_ups):
            draw("a b c", 0)
        answer(
            ready=time.perf_counter() - start,
            versions=versions(),
            peak_bytes=peak_bytes(),
        )
        for line in sys.stdin:
            request = json.loads(line)
            start = time.perf_counter()
            images = draw(request["prompt"], request["seed"])
            seconds = time.perf_counter() - start
            if request.get("picture"):
                numpy.save(request["picture"], images)
            answer(seconds=seconds)


if __name__ == "__main__":
    main()
