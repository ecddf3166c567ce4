"""halftime beside stable-diffusion.cpp and the others, at Stable Diffusion 1.5's true size.

Regime: the modules of SD 1.5 (UNet 860 M parameters, VAE 84 M, CLIP 123 M) with random weights,
written once as a diffusers folder in fp16, from which all read them, stable-diffusion.cpp too. 256
px, 4 Euler steps, guidance 7.5, one picture a call, two threads. Everybody in a process of its own,
warmed up by one call, then in turns (`benchmarks.contest`). `rmse` is against diffusers' default of
the same prompt and seed, in grey levels: it shows that all compute the same. Prompts are single
letters, which are tokens without CLIP's vocabulary. `peak_bytes` says what each process took; it
must be 8 GiB or less. Ceiling: the multiplications alone, in bf16 at the cores' own peak.

    python -m benchmarks.tune.true_size --out benchmarks/results/tune_true_size.json

`--environments` (~/peers) holds one virtual environment a requirements file
(benchmarks/fix/environments), here sdcpp.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.contest import (
    Stack,
    add_options,
    older_names,
    race,
    recipe_stacks,
    refusals,
    rows,
    started,
)
from benchmarks.frame import Frame
from halftime.records.recipe import Choice

SIZE = 256
STEPS = 4
GUIDANCE = 7.5
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = 49408
DEFAULT = Stack("diffusers default", "diffusers_default")
OURS: dict[str, tuple[Choice, ...]] = {
    "halftime, equivalent fixes": (
        Choice(name="known-device"),
        Choice(name="denoiser-channels-last"),
        Choice(name="vae-channels-last"),
        Choice(name="denoiser-dtype", settings={"dtype": "bfloat16"}),
        Choice(name="vae-dtype", settings={"dtype": "bfloat16"}),
    ),
}


def write_model(folder: Path) -> Path:
    """SD 1.5's modules with random weights, as a diffusers folder in fp16."""
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        ).half(),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=TOKENS,
                hidden_size=768,
                intermediate_size=3072,
                projection_dim=768,
                num_attention_heads=12,
                num_hidden_layers=12,
                bos_token_id=TOKENS - 2,
                eos_token_id=TOKENS - 1,
            )
        ).half(),
        tokenizer=letters_only(folder),
        unet=UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8
        ).half(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    model = folder / "model"
    pipeline.save_pretrained(model)
    older_names(model / "text_encoder" / "model.safetensors")
    return model


def letters_only(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer without its merges: its first 512 tokens are the bytes, and the bytes that
    end a word."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [chr(256 + k) for k in range(256 - len(printable))]
    letters = [*map(chr, printable), *others]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [f"<unused {k}>" for k in range(TOKENS - 2 - len(words))]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({word: k for k, word in enumerate(words)}))
    merges.write_text("#version: 0.2\n")
    return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77)


def sigmas() -> str:
    """Of the folder's scheduler, as stable-diffusion.cpp takes them."""
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    scheduler.set_timesteps(STEPS)
    return ",".join(f"{float(sigma):.6f}" for sigma in scheduler.sigmas)


def stacks(folder: Path) -> list[Stack]:
    """Who takes part."""
    return [
        DEFAULT,
        *recipe_stacks(OURS, folder),
        Stack("torch bf16, channels_last", "torch_bf16"),
        Stack("stable-diffusion.cpp, fp16", "stable_diffusion_cpp", "sdcpp"),
    ]


def main() -> None:
    frame = Frame(__file__, __doc__)
    add_options(frame.parser, rounds=3, threads=2)
    options = frame.parse()
    prompts = [" ".join(LETTERS[k : k + 3]) for k in range(options.rounds)]
    with tempfile.TemporaryDirectory(prefix="halftime-true-size-") as name:
        folder = Path(name)
        model = write_model(folder)
        calls = [f"--model={model}", f"--steps={STEPS}", f"--guidance={GUIDANCE}", f"--size={SIZE}"]
        calls += [f"--sigmas={sigmas()}", "--warm-ups=1"]
        with started(stacks(folder), calls, folder, options) as workers:
            race(workers, prompts, folder, calls=1)
    frame.write(
        {
            "rounds": options.rounds,
            "steps": STEPS,
            "size": SIZE,
            "threads": options.threads,
            "contestants": rows(workers),
            "refused": refusals(workers),
        }
    )


if __name__ == "__main__":
    main()
