"""Trains the AutoencoderKL on crops of all objects in all styles; then, with --decoder, the decoder
alone."""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from workshop.bundled import model
from workshop.bundled.artwork import COLOURS, NOUNS, STYLES, Objects, random_jitter
from workshop.bundled.shared import Average, Exchange, log, optimizers, rate, save

CROP = 96


class Pictures:
    """Random crops on the latent grid: half from the vocabulary."""

    def __init__(self, data: Path, seed: int) -> None:
        self.objects = Objects(data)
        self.rng = np.random.default_rng(seed)

    def one(self) -> np.ndarray:
        rng = self.rng
        if rng.random() < 0.6:
            index = self.objects.of_noun[NOUNS[rng.integers(len(NOUNS))]]
        else:
            index = self.objects.others[rng.integers(len(self.objects.others))]
        style = str(rng.choice(STYLES, p=(0.55, 0.25, 0.2)))
        colour = str(rng.choice(list(COLOURS))) if rng.random() < 0.15 else None
        picture = self.objects.draw(index, style, colour, random_jitter(rng))
        y, x = rng.integers(0, (128 - CROP) // 8 + 1, 2) * 8
        picture = picture[y : y + CROP, x : x + CROP]
        return picture[:, ::-1] if rng.random() < 0.5 else picture

    def batch(self, size: int) -> Tensor:
        stack = np.stack([self.one() for _ in range(size)])
        return (
            torch.from_numpy(stack)
            .permute(0, 3, 1, 2)
            .float()
            .div(127.5)
            .sub(1)
            .contiguous(memory_format=torch.channels_last)
        )


TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]]).view(
    3, 3, 1, 1
)


def picture_loss(y: Tensor, x: Tensor) -> Tensor:
    """L1 and squared error in luminance and (weighted up) chroma, at three scales, and of the
    gradients."""
    a, b = F.conv2d(y, TO_YCC), F.conv2d(x, TO_YCC)
    weight = torch.tensor([1.0, 2.0, 2.0]).view(1, 3, 1, 1)
    total = torch.zeros(())
    for scale in range(3):
        d = (a - b) * weight
        total = total + d.abs().mean() + 2 * d.square().mean()
        if scale == 0:
            total = total + 0.5 * (d.diff(dim=2).abs().mean() + d.diff(dim=3).abs().mean())
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total


def psnr(vae: AutoencoderKL, objects: Objects, indices: list[int]) -> dict[str, float]:
    out = {}
    for style in STYLES:
        errors = []
        for i in indices:
            x = torch.from_numpy(objects.draw(i, style)).permute(2, 0, 1)[None].float() / 127.5 - 1
            with torch.no_grad():
                y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            errors.append(10 * np.log10(4 / max(float((y - x).square().mean()), 1e-9)))
        out[style] = float(np.mean(errors))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--helper", action="store_true")
    parser.add_argument("--decoder", action="store_true", help="the encoder stays as it is")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.helper)
    args.runs.mkdir(parents=True, exist_ok=True)
    name = "decoder" if args.decoder else "vae"
    pictures = Pictures(args.data, seed=int(time.time()))
    vae = model.vae().to(memory_format=torch.channels_last)
    vae_file = args.runs / "vae.pt"
    resumed = args.runs / f"{name}.pt"
    start = 0.0
    if resumed.exists():
        state = torch.load(resumed)
        vae.load_state_dict(state["model"])
        start = state["seconds"]
    elif args.decoder:
        vae.load_state_dict(torch.load(vae_file)["average"])
    if args.decoder:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def gradient() -> float:
        x = pictures.batch(args.batch)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not args.decoder):
                posterior = vae.encode(x).latent_dist
            # a decoder that bears small errors
            z = posterior.mean + 0.05 * torch.randn_like(posterior.mean)
            y = vae.decode(z).sample
        loss = picture_loss(y.float(), x)
        total = loss if args.decoder else loss + 1e-4 * posterior.mean.float().square().mean()
        total.backward()
        return float(loss.detach())

    exchange = Exchange(name, list(vae.parameters()), main=not args.helper)
    if args.helper:
        exchange.help(gradient)
        return
    steppers = optimizers([vae], args.lr)
    average = Average(vae, 0.998)
    begun, logged_at, losses = time.process_time() - start, time.time(), []
    step = 0
    while (progress := (time.process_time() - begun) / (60 * args.minutes)) < 1:
        for stepper in steppers:
            stepper.zero_grad()
            for group in stepper.param_groups:
                group["lr"] = args.lr * rate(progress, hold=0.4)
        losses.append(gradient())
        exchange.receive()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
        average.update(vae)
        exchange.publish()
        step += 1
        if time.time() - logged_at > 30:
            loss = float(np.mean(losses))
            print(
                f"{progress:5.1%} step {step} helper {exchange.received} loss {loss:.4f}",
                flush=True,
            )
            log(args.runs / f"{name}.jsonl", done=progress, step=step, loss=loss)
            save(
                {
                    "model": vae.state_dict(),
                    "average": average.weights,
                    "seconds": time.process_time() - begun,
                },
                resumed,
            )
            logged_at, losses = time.time(), []
    exchange.finish()
    save(
        {
            "model": vae.state_dict(),
            "average": average.weights,
            "seconds": time.process_time() - begun,
        },
        resumed,
    )
    vae.load_state_dict(average.weights)
    print(psnr(vae, pictures.objects, pictures.objects.held_out))


if __name__ == "__main__":
    main()
