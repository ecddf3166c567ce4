"""Encodes every captioned picture, centred and with mild jitter, and whitens the latents per
channel."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from workshop.bundled import model
from workshop.bundled.artwork import (
    CENTRED,
    COLOURABLE,
    COLOURS,
    NOUNS,
    STYLES,
    Jitter,
    Objects,
    caption,
)


@dataclass(frozen=True, slots=True)
class Captioned:
    noun: str
    style: str
    colour: str | None

    @property
    def text(self) -> str:
        return caption(self.noun, self.style, self.colour)


def all_captioned() -> list[Captioned]:
    return [
        Captioned(noun, style, colour)
        for noun in NOUNS
        for style in STYLES
        for colour in (COLOURS if noun in COLOURABLE else (None,))
    ]


def mild_jitter(rng: np.random.Generator) -> Jitter:
    """What seeds differ by: place, size, a small turn, and the side an object faces."""
    dx, dy = rng.uniform(-6, 6, 2)
    mirrored = bool(rng.random() < 0.3)
    return Jitter(
        float(dx), float(dy), float(rng.uniform(0.78, 0.90)), float(rng.uniform(-6, 6)), mirrored
    )


@torch.inference_mode()
def encoded(vae: AutoencoderKL, pictures: list[np.ndarray]) -> np.ndarray:
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    with torch.autocast("cpu", torch.bfloat16):
        return (
            vae.encode(x.contiguous(memory_format=torch.channels_last))
            .latent_dist.mean.float()
            .numpy()
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument(
        "--jittered",
        type=int,
        default=0,
        help="variants a picture; 0 encodes the centred ones alone",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    vae = model.vae().to(memory_format=torch.channels_last)
    vae.load_state_dict(torch.load(args.runs / "vae.pt")["average"])
    objects, rng = Objects(args.data), np.random.default_rng(1)
    variants = []
    for variant in range(max(1, args.jittered)):
        rows = []
        for item in all_captioned():
            jitter = mild_jitter(rng) if args.jittered else CENTRED
            rows.append(objects.draw(objects.of_noun[item.noun], item.style, item.colour, jitter))
        variants.append(
            np.concatenate([encoded(vae, rows[i : i + 16]) for i in range(0, len(rows), 16)])
        )
        print(f"variant {variant + 1}", flush=True)
    latents = np.stack(variants, 1)  # pictures, variants, 4, 16, 16
    if not args.jittered:
        mean, std = latents.mean((0, 1, 3, 4)), latents.std((0, 1, 3, 4))
        (args.runs / "whitening.json").write_text(
            json.dumps({"mean": mean.tolist(), "std": std.tolist()})
        )
    whitening = json.loads((args.runs / "whitening.json").read_text())
    mean, std = (np.array(whitening[k], np.float32).reshape(1, 1, 4, 1, 1) for k in ("mean", "std"))
    name = "jittered" if args.jittered else "centred"
    np.save(args.runs / f"{name}.new.npy", ((latents - mean) / std).astype(np.float16))
    (args.runs / f"{name}.new.npy").replace(args.runs / f"{name}.npy")
    print(whitening)


if __name__ == "__main__":
    main()
