"""Trains the UNet and both text encoders together, by v-prediction on cached latents.

Centred pictures first; jittered ones join once they are on disk and --jitter-from of the time has
passed.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from workshop.bundled import model
from workshop.bundled.make_latents import Captioned, all_captioned
from workshop.bundled.shared import Average, Exchange, log, optimizers, rate, save

BACKGROUND = " on a white background"
SIZES = (64, 96, 192, 256, 512, 1024)


class Batches:
    """Latents, token ids and noise: objects and styles alike often, however many colours they come
    in."""

    def __init__(self, runs: Path, words: Path, seed: int) -> None:
        self.runs, self.rng = runs, np.random.default_rng(seed)
        self.centred = torch.from_numpy(np.load(runs / "centred.npy"))
        self.jittered: Tensor | None = None
        self.items = all_captioned()
        groups: dict[tuple[str, str], list[int]] = {}
        for i, item in enumerate(self.items):
            groups.setdefault((item.noun, item.style), []).append(i)
        self.groups = list(groups.values())
        self.tokenizers = model.tokenizers(words)
        self.ids = [
            self.tokenized([self.text(item, short) for item in self.items])
            for short in (False, True)
        ]
        self.empty = self.tokenized([""])

    @staticmethod
    def text(item: Captioned, short: bool) -> str:
        return item.text.removesuffix(BACKGROUND) if short else item.text

    def tokenized(self, texts: list[str]) -> Tensor:
        """Texts, tokenizer, tokens."""
        both = [
            t(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
            for t in self.tokenizers
        ]
        return torch.stack(both, 1)

    def draw(self, size: int, jitter: float) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, a share `jitter` of them jittered; ids; and where the text is dropped."""
        if jitter and self.jittered is None and (self.runs / "jittered.npy").exists():
            self.jittered = torch.from_numpy(np.load(self.runs / "jittered.npy"))
        rng = self.rng
        chosen = np.array(
            [
                self.groups[g][rng.integers(len(self.groups[g]))]
                for g in rng.integers(len(self.groups), size=size)
            ]
        )
        latents = self.centred[chosen, 0]
        if jitter and self.jittered is not None:
            jittered = self.jittered[chosen, rng.integers(self.jittered.shape[1], size=size)]
            latents = torch.where(
                torch.from_numpy(rng.random(size) < jitter)[:, None, None, None], jittered, latents
            )
        short = torch.from_numpy(rng.random(size) < 0.3)
        ids = torch.where(short[:, None, None], self.ids[1][chosen], self.ids[0][chosen])
        kind = torch.from_numpy(rng.random(size))
        ids = torch.where((kind < 0.03)[:, None, None], self.empty, ids)
        return latents.float(), ids, (kind >= 0.03) & (kind < 0.12)


class Trained(nn.Module):
    def __init__(self, words: Path) -> None:
        super().__init__()
        first, _ = model.tokenizers(words)
        self.text_encoder, self.text_encoder_2 = model.text_encoders(first)
        self.unet = model.unet().to(memory_format=torch.channels_last)
        self.alphas = model.scheduler().alphas_cumprod

    def loss(self, x: Tensor, ids: Tensor, dropped: Tensor, rng: np.random.Generator) -> Tensor:
        """Mean squared error of v; half of the timesteps lean towards noise, where the composition
        is decided."""
        n = len(x)
        u, v = torch.from_numpy(rng.random(n)), torch.from_numpy(rng.random(n))
        t = (999.99 * torch.where(v < 0.5, u, 1 - u * u)).long()
        a = self.alphas[t].sqrt().view(-1, 1, 1, 1).float()
        s = (1 - self.alphas[t]).sqrt().view(-1, 1, 1, 1).float()
        noise = torch.randn_like(x)
        first = self.text_encoder(ids[:, 0], output_hidden_states=True).hidden_states[-2]
        second = self.text_encoder_2(ids[:, 1], output_hidden_states=True)
        keep = (~dropped).float()
        context = torch.cat([first, second.hidden_states[-2]], -1) * keep[:, None, None]
        size = torch.full((n, 1), 128.0)
        odd = torch.from_numpy(rng.random(n) < 0.1)[:, None]
        size = torch.where(odd, torch.from_numpy(rng.choice(SIZES, size=(n, 1))).float(), size)
        zero = torch.zeros_like(size)
        added = {
            "text_embeds": second.text_embeds * keep[:, None],
            "time_ids": torch.cat([size, size, zero, zero, size, size], 1),
        }
        guess = self.unet(a * x + s * noise, t, context, added_cond_kwargs=added).sample
        return (guess.float() - (a * noise - s * x)).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument(
        "--minutes", type=float, required=True, help="wall-clock, from the first start"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--jitter-from", type=float, default=0.3)
    parser.add_argument("--jitter-share", type=float, default=0.8)
    parser.add_argument(
        "--last-steps",
        type=int,
        help="from the checkpoint: this many steps, down to rate zero, and stop",
    )
    parser.add_argument("--helper", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(int(time.time()))
    words = args.runs.parent / "box/tokenizer_words"
    batches = Batches(args.runs, words, seed=int(time.time()))
    trained = Trained(words)
    path = args.runs / "unet.pt"
    begun, step = time.time(), 0
    average = Average(trained, 0.999)
    steppers = optimizers([trained], args.lr)
    if path.exists() and not args.helper:
        state = torch.load(path)
        trained.load_state_dict(state["model"])
        average.weights, average.count = state["average"], state["step"]
        begun, step = state["begun"], state["step"]
        for stepper, optimizer_state in zip(steppers, state["optimizers"], strict=True):
            stepper.load_state_dict(optimizer_state)
    progress = 0.0
    exchange = Exchange("unet", list(trained.parameters()), main=not args.helper)

    def gradient() -> float:
        jitter = (args.runs / "jitter-on").exists() if args.helper else progress > args.jitter_from
        batch = batches.draw(args.batch, args.jitter_share * jitter)
        with torch.autocast("cpu", torch.bfloat16):
            loss = trained.loss(*batch, batches.rng)
        loss.backward()
        return float(loss.detach())

    if args.helper:
        exchange.help(gradient)
        return
    logged_at, saved_at, losses = time.time(), time.time(), []
    (args.runs / "jitter-on").unlink(missing_ok=True)

    def keep() -> None:
        state = {
            "model": trained.state_dict(),
            "average": average.weights,
            "begun": begun,
            "step": step,
        }
        save(state | {"optimizers": [s.state_dict() for s in steppers]}, path)

    last = step + args.last_steps if args.last_steps else None

    def elapsed() -> float:
        """As a share of the whole. The last steps run from 75 % to the end, whatever pauses there
        are."""
        if last is not None:
            return 1 - 0.25 * (last - step) / args.last_steps
        return (time.time() - begun) / (60 * args.minutes)

    while (progress := elapsed()) < 1:
        if progress > args.jitter_from:
            (args.runs / "jitter-on").touch()
        for stepper in steppers:
            stepper.zero_grad()
            for group in stepper.param_groups:
                group["lr"] = args.lr * rate(progress)
        losses.append(gradient())
        exchange.receive()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
        average.update(trained)
        exchange.publish()
        step += 1
        if time.time() - logged_at > 30:
            loss = float(np.mean(losses))
            print(
                f"{progress:5.1%} step {step} helped {exchange.received} loss {loss:.4f}",
                flush=True,
            )
            log(
                args.runs / "unet.jsonl",
                done=progress,
                step=step,
                helped=exchange.received,
                loss=loss,
            )
            logged_at, losses = time.time(), []
        if time.time() - saved_at > 60:
            keep()
            saved_at = time.time()
    exchange.finish()
    keep()


if __name__ == "__main__":
    main()
