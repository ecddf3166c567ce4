"""Trains the judge: every picture against all captions, on clean, blurred, noisy and VAE-decoded
pictures.

Imports halftime.bundled.judge, so run it where halftime is importable (PYTHONPATH=src).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from halftime.bundled.judge import SIDE, Towers, tokens
from workshop.bundled import model
from workshop.bundled.artwork import Objects, random_jitter
from workshop.bundled.make_latents import all_captioned
from workshop.bundled.shared import log, rate, save
from workshop.bundled.train_unet import BACKGROUND


def drawn(data: Path, variants: int, seed: int) -> Tensor:
    """Pictures, variants, 3, SIDE, SIDE in uint8."""
    objects, rng, items = Objects(data), np.random.default_rng(seed), all_captioned()
    rows = [
        [
            objects.draw(objects.of_noun[i.noun], i.style, i.colour, random_jitter(rng))
            for _ in range(variants)
        ]
        for i in items
    ]
    stack = torch.from_numpy(np.array(rows)).permute(0, 1, 4, 2, 3)
    return torch.stack([F.avg_pool2d(row.float(), 128 // SIDE).byte() for row in stack])


@torch.inference_mode()
def decoded(runs: Path, variants: int) -> Tensor:
    """The same captions' pictures as the VAE draws them from jittered latents."""
    from workshop.bundled.sample import whitened_vae

    vae = whitened_vae(runs).to(memory_format=torch.channels_last)
    latents = torch.from_numpy(np.load(runs / "jittered.npy"))[:, :variants]
    out = []
    for row in latents:
        with torch.autocast("cpu", torch.bfloat16):
            y = vae.decode(row.float()).sample.float()
        out.append(((F.avg_pool2d(y, 128 // SIDE).clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.stack(out)


def spoilt(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur, noise, contrast and a small shift, each by chance."""
    if rng.random() < 0.4:
        x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = x + torch.randn_like(x) * float(rng.uniform(0, 0.15))
    x = x * float(rng.uniform(0.85, 1.1)) + float(rng.uniform(-0.1, 0.1))
    dy, dx = (int(k) for k in rng.integers(-3, 4, 2))
    return torch.roll(x, (dy, dx), (2, 3))


def retrieval(towers: Towers, pictures: Tensor, captions: Tensor) -> dict[str, float]:
    """Share of pictures whose own caption is the first, or among the first five, of all."""
    with torch.inference_mode():
        features = torch.cat(
            [towers.picture_features(p.float() / 127.5 - 1) for p in pictures.split(64)]
        )
        rank = (features @ captions.T).argsort(descending=True)
    own = torch.arange(len(pictures))[:, None]
    return {
        "top1": float((rank[:, :1] == own).float().mean()),
        "top5": float((rank[:, :5] == own).any(1).float().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5, help="of CPU time")
    parser.add_argument("--batch", type=int, default=96)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(2)
    items = all_captioned()
    tokenizer = model.tokenizers(args.runs.parent / "box/tokenizer_words")[0]
    ids = [tokens(tokenizer, [i.text.removesuffix(end) for i in items]) for end in ("", BACKGROUND)]
    pictures = torch.cat([drawn(args.data, 8, 5), decoded(args.runs, 4)], 1)
    held_out = drawn(args.data, 1, 6)[:, 0]
    towers = Towers(len(tokenizer)).to(memory_format=torch.channels_last)
    stepper = torch.optim.AdamW(towers.parameters(), 2e-3, weight_decay=0.02)
    begun, logged_at, step, losses = time.process_time(), time.time(), 0, []
    while (progress := (time.process_time() - begun) / (60 * args.minutes)) < 1:
        stepper.param_groups[0]["lr"] = 2e-3 * rate(progress, warm=0.05, hold=0.3)
        chosen = torch.from_numpy(rng.permutation(len(items))[: args.batch])
        variant = torch.from_numpy(rng.integers(pictures.shape[1], size=args.batch))
        x = spoilt(pictures[chosen, variant].float() / 127.5 - 1, rng)
        with torch.autocast("cpu", torch.bfloat16):
            picture_features = towers.picture_features(x)
            text_features = towers.text_features(*ids[int(rng.random() < 0.3)])
            logits = towers.temperature.exp() * picture_features @ text_features.T
        own = logits[:, chosen]
        loss = F.cross_entropy(logits.float(), chosen) + 0.3 * F.cross_entropy(
            own.T.float(), torch.arange(args.batch)
        )
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        step += 1
        losses.append(float(loss.detach()))
        if time.time() - logged_at > 30:
            with torch.inference_mode():
                recall = retrieval(towers, held_out, towers.text_features(*ids[0]))
            print(f"{progress:5.1%} step {step} loss {np.mean(losses):.3f} {recall}", flush=True)
            log(
                args.runs / "judge.jsonl",
                done=progress,
                step=step,
                loss=float(np.mean(losses)),
                **recall,
            )
            logged_at, losses = time.time(), []
    save(towers.state_dict(), args.runs / "judge.pt")
    with torch.inference_mode():
        print(retrieval(towers, held_out, towers.text_features(*ids[0])))


if __name__ == "__main__":
    main()
