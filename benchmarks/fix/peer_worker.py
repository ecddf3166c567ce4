"""One stack in its own process: a request in a line of JSON on stdin, its seconds on stdout.

Each peer lives in the environment that it needs, so this file imports nothing of halftime's unless
the stack is one of halftime's. `benchmarks.fix.peers` starts the workers and lets them take turns.

    PYTHON benchmarks/fix/peer_worker.py STACK --model FOLDER --steps 30 --guidance 2.5 --threads 1

A request is {"prompt": …, "seed": …, "picture": FILE.npy}, the answer {"seconds": …}.
"""

from __future__ import annotations

import argparse
import contextlib
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
)


# ---- stacks: each returns a pipeline that is ready for its first call


def diffusers_default(options):
    import torch
    from diffusers import StableDiffusionXLPipeline

    # The weights are stored in fp16, so the dtype must be named.
    return StableDiffusionXLPipeline.from_pretrained(options.model, torch_dtype=torch.float32)


def torch_bf16(options):
    import torch
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(options.model, torch_dtype=torch.bfloat16)
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
    from pruna import SmashConfig, smash

    config = SmashConfig(["torch_compile"], device="cpu")
    return smash(model=torch_bf16(options), smash_config=config)


def halftime_recipe(options):
    import halftime

    return options.stack_of_contexts.enter_context(
        halftime.applied(diffusers_default(options), options.recipe)
    )


STACKS = {
    function.__name__: function
    for function in (
        diffusers_default,
        torch_bf16,
        torch_compile,
        optimum_openvino,
        optimum_openvino_dynamic,
        optimum_onnx,
        pruna,
        halftime_recipe,
    )
}


def call(pipe, options, prompt, seed):
    import torch

    start = time.perf_counter()
    images = pipe(
        prompt,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        height=options.size,
        width=options.size,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).images
    return time.perf_counter() - start, images


def versions():
    installed = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack", choices=STACKS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--recipe")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.stack_of_contexts = contextlib.ExitStack()
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print; only answers go to stdout

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    import numpy
    import torch

    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    with options.stack_of_contexts:
        pipe = STACKS[options.stack](options)
        for _ in range(3):
            call(pipe, options, "warm-up", 0)
        answer(ready=time.perf_counter() - start, versions=versions())
        for line in sys.stdin:
            request = json.loads(line)
            seconds, images = call(pipe, options, request["prompt"], request["seed"])
            if request.get("picture"):
                numpy.save(request["picture"], images)
            answer(seconds=seconds)


if __name__ == "__main__":
    main()
