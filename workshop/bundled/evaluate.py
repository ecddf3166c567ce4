"""Measures the shipped model as installed (PYTHONPATH=src) and writes numbers.json; the card quotes
it.

Draws the 500 prompts in several settings, one seed a prompt; kept in RUNS, so that a second run
only counts.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from halftime import bundled
from workshop.bundled.artwork import NOUNS, STYLES, Objects
from workshop.bundled.gate import Head, fitted
from workshop.bundled.gate import drawn as drawn_for_gate
from workshop.bundled.make_latents import all_captioned

GUIDED = {"guidance_scale": bundled.GUIDANCE}
SETTINGS = {
    "30 steps": {"num_inference_steps": 30, **GUIDED},
    "4 steps": {"num_inference_steps": 4, **GUIDED},
    "30 steps, no guidance": {"num_inference_steps": 30, "guidance_scale": 1.0},
    "30 steps, guidance 5": {"num_inference_steps": 30},
    "4 steps, guidance 5": {"num_inference_steps": 4},
    "DPM++ 2M Karras, 20 steps": {"num_inference_steps": 20, **GUIDED},
}
BATCH = 10
FEW = 150  # prompts for the settings that are beside the point
ON_ALL = ("30 steps", "4 steps")


def generated(setting: str) -> np.ndarray:
    from diffusers import DPMSolverMultistepScheduler

    pipe = bundled.load()
    pipe.set_progress_bar_config(disable=True)
    if setting.startswith("DPM"):
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(
            pipe.scheduler.config, use_karras_sigmas=True
        )
    texts, out = [p.text for p in bundled.prompts()], []
    texts = texts if setting in ON_ALL else texts[:FEW]
    for start in range(0, len(texts), BATCH):
        seeds = [torch.Generator().manual_seed(start + i) for i in range(BATCH)]
        out += pipe(texts[start : start + BATCH], generator=seeds, **SETTINGS[setting]).images
    return np.stack([np.asarray(image) for image in out])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(
        10 * np.log10(255**2 / max(np.square(a.astype(float) - b.astype(float)).mean(), 1e-9))
    )


@torch.inference_mode()
def reconstruction(data: Path) -> dict[str, dict[str, float]]:
    """Mean PSNR in dB over held-out objects, centred."""
    vae, tiny, objects = bundled.load().vae, bundled.load_tiny_vae(), Objects(data)
    out: dict[str, dict[str, float]] = {}
    for style in STYLES:
        rows = []
        for index in objects.held_out:
            real = objects.draw(index, style)
            z = vae.encode(
                torch.from_numpy(real).permute(2, 0, 1)[None].float() / 127.5 - 1
            ).latent_dist.mean
            full, small = (
                ((m.decode(z).sample[0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
                for m in (vae, tiny)
            )
            rows.append((psnr(full, real), psnr(small, real), psnr(small, full)))
        names = ("VAE", "tiny VAE", "tiny VAE against VAE")
        out[style] = dict(zip(names, np.mean(rows, 0).tolist(), strict=True))
    return out


def edge_share(pictures: np.ndarray) -> float:
    """Share of the horizontal and vertical steps in luminance that lies on the 8-px grid: 1.0 for
    true pixel art."""
    grey = pictures.astype(float).mean(-1)
    on = total = 0.0
    for axis in (1, 2):
        steps = np.abs(np.diff(grey, axis=axis)).sum(axis=(0, 3 - axis))
        on, total = on + steps[7::8].sum(), total + steps.sum()
    return float(on / total)


def judged(pictures: np.ndarray, texts: list[str]) -> dict[str, float]:
    """Agreement with the own prompt, and how often that prompt is found among all captions of the
    vocabulary."""
    judge, captions = bundled.load_judge(), [i.text for i in all_captioned()]
    images = [Image.fromarray(p) for p in pictures]
    similar = judge.image_features(images) @ judge.text_features(captions).T
    own = torch.tensor([captions.index(t) for t in texts])[:, None]
    best = similar.topk(5).indices == own
    return {
        "agreement": float(similar.gather(1, own).mean()),
        "top1": float(best[:, 0].float().mean()),
        "top5": float(best.any(1).float().mean()),
        "aesthetic": float(np.mean(judge.aesthetic(images))),
    }


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """KID's unbiased estimator (Binkowski et al. 2018) over N x D features; 0 for two samples of
    one distribution."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    n, m, within_a, within_b = len(a), len(b), kernel(a, a), kernel(b, b)
    own = (within_a.sum() - within_a.trace()) / (n * (n - 1)) + (
        within_b.sum() - within_b.trace()
    ) / (m * (m - 1))
    return float(own - 2 * kernel(a, b).mean())


def apart(
    full: Tensor, short: Tensor, real: Tensor, labels: Tensor, heads: dict[str, Head]
) -> dict[str, object]:
    """How much worse short runs are than full ones, over features of the same prompts and seeds.

    The distance's p is two-sided, from 1,000 swaps of the two pictures of random prompts (an exact
    test of whether it matters which is which); the log-probability of the right object is paired,
    with a 95 % interval.
    """
    full, short, real = full.double(), short.double(), real.double()
    rng = torch.Generator().manual_seed(0)
    distance = kernel_distance(short, real) - kernel_distance(full, real)
    swaps = []
    for _ in range(1000):
        swapped = torch.rand(len(full), 1, generator=rng) < 0.5
        left, right = torch.where(swapped, short, full), torch.where(swapped, full, short)
        swaps.append(abs(kernel_distance(right, real) - kernel_distance(left, real)))
    nats = {}
    for name, head in heads.items():
        gain = head.log_probability(full.float(), labels) - head.log_probability(
            short.float(), labels
        )
        nats[name] = [float(gain.mean()), float(1.96 * gain.std() / len(gain) ** 0.5)]
    return {
        "kernel distance to real pictures, many steps": kernel_distance(full, real),
        "kernel distance to real pictures, few steps": kernel_distance(short, real),
        "kernel distance, halves of the real pictures": kernel_distance(real[::2], real[1::2]),
        "p": (1 + sum(swap >= abs(distance) for swap in swaps)) / (1 + len(swaps)),
        "log-probability of the right object, many minus few, nats and 95 % half-width": nats,
    }


def timing() -> dict[str, float]:
    """Medians in seconds on this machine, with the threads this process was given."""
    begun = time.perf_counter()
    pipe, text = bundled.load(), bundled.prompts()[0].text
    loading = time.perf_counter() - begun
    pipe.set_progress_bar_config(disable=True)
    tiny = bundled.load_tiny_vae()
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = []
    with torch.inference_mode():
        for _ in range(6):
            marks = [time.perf_counter()]
            for call in (
                lambda: pipe(text, num_inference_steps=30),
                lambda: pipe(text, num_inference_steps=4),
                lambda: pipe.vae.decode(z),
                lambda: tiny.decode(z),
            ):
                call()
                marks.append(time.perf_counter())
            rows.append(np.diff(marks))
    names = ("30 steps", "4 steps", "VAE decode", "tiny VAE decode")
    medians = np.median(rows[1:], 0).tolist()
    return {
        "threads": torch.get_num_threads(),
        "load": loading,
        **dict(zip(names, medians, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument(
        "--only", nargs="*", help="draw these settings and stop; two processes may share the work"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "numbers.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pictures = {}
    for setting in args.only or SETTINGS:
        file = args.runs / f"drawn {setting}.npy"
        if not file.exists():
            np.save(file, generated(setting))
            print("drawn:", setting, flush=True)
        pictures[setting] = np.load(file)
    if args.only:
        return
    pictures["30 steps, the same few prompts"] = pictures["30 steps"][:FEW]
    prompts, objects = bundled.prompts(), Objects(args.data)
    network, heads = fitted(args.data)
    labels, styles = (
        torch.tensor([NOUNS.index(p.object) for p in prompts]),
        [str(p.style) for p in prompts],
    )
    texts = [p.text for p in prompts]
    real = np.stack([objects.draw(objects.of_noun[p.object], p.style, p.colour) for p in prompts])
    pixel = np.array([s == "pixel" for s in styles])
    numbers: dict[str, object] = {"timing": timing(), "reconstruction": reconstruction(args.data)}
    fresh, fresh_labels, fresh_styles = drawn_for_gate(args.data, 1, seed=12)
    activations = network.of(fresh)
    numbers["gate, real pictures rendered anew"] = {
        kind: head.by_style(activations, fresh_labels, fresh_styles) for kind, head in heads.items()
    }
    numbers["gate, chance"] = {"top1": 1 / len(NOUNS), "top5": 5 / len(NOUNS)}
    numbers["judge, chance"] = {"top1": 1 / len(all_captioned()), "top5": 5 / len(all_captioned())}
    features: dict[str, Tensor] = {}
    for name, images in {"real pictures of the prompts": real, **pictures}.items():
        n, activations = len(images), network.of(list(images))
        features[name] = activations
        numbers[name] = {
            "pictures": n,
            "gate": {
                kind: head.by_style(activations, labels[:n], styles[:n])
                for kind, head in heads.items()
            },
            "judge": judged(images, texts[:n]),
            "edges on the grid, pixel art": edge_share(images[pixel[:n]]),
            "edges on the grid, others": edge_share(images[~pixel[:n]]),
        }
    for name in list(SETTINGS)[1:]:
        pairs = zip(pictures[name], pictures["30 steps"], strict=False)
        numbers[f"PSNR of {name} against 30 steps"] = float(np.mean([psnr(a, b) for a, b in pairs]))
    trio = (features[name] for name in (*ON_ALL, "real pictures of the prompts"))
    numbers["4 steps against 30"] = apart(*trio, labels, heads)
    args.out.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
