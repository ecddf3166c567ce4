"""Distils the VAE into an AutoencoderTiny that shares its (whitened) latents."""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from workshop.bundled import model
from workshop.bundled.sample import whitened_vae
from workshop.bundled.shared import Average, log, optimizers, rate, save
from workshop.bundled.train_vae import Pictures, picture_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8, help="of CPU time")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pictures = Pictures(args.data, seed=int(time.time()))
    teacher = whitened_vae(args.runs).to(memory_format=torch.channels_last).requires_grad_(False)
    tiny = model.tiny_vae().to(memory_format=torch.channels_last)
    steppers, average = optimizers([tiny], args.lr), Average(tiny, 0.998)
    begun, logged_at, step, losses = time.process_time(), time.time(), 0, []
    while (progress := (time.process_time() - begun) / (60 * args.minutes)) < 1:
        x = pictures.batch(args.batch)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                z = teacher.encode(x).latent_dist.mean
                y = teacher.decode(z).sample
            decoded = tiny.decode(z).sample
            guess = tiny.encode(x).latents
        # Half of the target is the teacher, half the picture itself: sharper than either alone.
        loss = 0.5 * picture_loss(decoded.float(), y.float()) + 0.5 * picture_loss(
            decoded.float(), x
        )
        loss = loss + F.smooth_l1_loss(guess.float(), z.float())
        for stepper in steppers:
            stepper.zero_grad()
            for group in stepper.param_groups:
                group["lr"] = args.lr * rate(progress, hold=0.4)
        loss.backward()
        for stepper in steppers:
            stepper.step()
        average.update(tiny)
        step += 1
        losses.append(float(loss.detach()))
        if time.time() - logged_at > 30:
            print(f"{progress:5.1%} step {step} loss {np.mean(losses):.4f}", flush=True)
            log(args.runs / "tiny_vae.jsonl", done=progress, step=step, loss=float(np.mean(losses)))
            logged_at, losses = time.time(), []
    save(average.weights, args.runs / "tiny_vae.pt")


if __name__ == "__main__":
    main()
