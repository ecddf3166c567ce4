"""Draws a sheet with the average weights of the newest checkpoint, through a plain SDXL
pipeline."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline

from workshop.bundled import model
from workshop.bundled.artwork import sheet
from workshop.bundled.make_latents import all_captioned
from workshop.bundled.train_unet import Trained


def whitened_vae(runs: Path) -> AutoencoderKL:
    """The VAE whose latents have mean 0 and deviation 1 by channel: the affine map goes into its
    1x1 convolutions."""
    vae = model.vae()
    vae.load_state_dict(torch.load(runs / "vae.pt")["average"])
    if (runs / "decoder.pt").exists():
        vae.load_state_dict(torch.load(runs / "decoder.pt")["average"])
    whitening = json.loads((runs / "whitening.json").read_text())
    mean, std = torch.tensor(whitening["mean"]), torch.tensor(whitening["std"])
    with torch.no_grad():
        into, out = vae.quant_conv, vae.post_quant_conv
        into.bias[:4] = (into.bias[:4] - mean) / std
        into.weight[:4] /= std.view(4, 1, 1, 1)
        into.bias[4:] -= 2 * std.log()
        out.bias += out.weight[:, :, 0, 0] @ mean
        out.weight *= std.view(1, 4, 1, 1)
    return vae


def pipeline(runs: Path, words: Path) -> StableDiffusionXLPipeline:
    trained = Trained(words)
    trained.load_state_dict(torch.load(runs / "unet.pt")["average"])
    first, second = model.tokenizers(words)
    out = StableDiffusionXLPipeline(
        vae=whitened_vae(runs),
        text_encoder=trained.text_encoder,
        text_encoder_2=trained.text_encoder_2,
        tokenizer=first,
        tokenizer_2=second,
        unet=trained.unet,
        scheduler=model.scheduler(),
        add_watermarker=False,
    )
    out.set_progress_bar_config(disable=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--count", type=int, default=48)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = pipeline(args.runs, args.runs.parent / "box/tokenizer_words")
    items = all_captioned()
    chosen = [items[i] for i in np.random.default_rng(3).permutation(len(items))[: args.count]]
    pictures = []
    for start in range(0, len(chosen), 8):
        texts = [c.text for c in chosen[start : start + 8]]
        seeds = [torch.Generator().manual_seed(start + i) for i in range(len(texts))]
        images = pipe(
            texts, num_inference_steps=args.steps, guidance_scale=args.guidance, generator=seeds
        ).images
        pictures += [np.asarray(image) for image in images]
    sheet(pictures, 12).save(args.out)
    for row in range(0, len(chosen), 12):
        print(
            " | ".join(f"{c.colour or ''} {c.noun} ({c.style[0]})" for c in chosen[row : row + 12])
        )


if __name__ == "__main__":
    main()
