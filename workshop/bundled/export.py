"""Writes the model folder that halftime ships. With --skeleton: configurations and tokenizers, no
weights."""

import argparse
import json
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import nn

from workshop.bundled import model
from workshop.bundled.sample import pipeline as trained_pipeline


def half(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        k: v.detach().half().contiguous() if v.is_floating_point() else v
        for k, v in module.state_dict().items()
    }


def named_for_all(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A text encoder's weights under the names that every transformers reads: 5.6 dropped
    'text_model.' from CLIPTextModel, older ones would fill it with random numbers."""
    prefix = "text_model."
    if any(name.startswith(prefix) for name in weights):
        return weights
    return {prefix + name: weight for name, weight in weights.items()}


def write(weights: dict[str, torch.Tensor], path: Path) -> None:
    save_file(weights, path, {"format": "pt"})
    path.chmod(0o644)


def export_pipeline(pipeline: StableDiffusionXLPipeline, out: Path, weights: bool) -> None:
    pipeline.save_config(out / "model")
    for name in ("tokenizer", "tokenizer_2", "scheduler"):
        getattr(pipeline, name).save_pretrained(out / "model" / name)
    for name in ("text_encoder", "text_encoder_2", "unet", "vae"):
        part, folder, is_text = (
            getattr(pipeline, name),
            out / "model" / name,
            name.startswith("text"),
        )
        (part.config.save_pretrained if is_text else part.save_config)(folder)
        if weights:
            file = "model.safetensors" if is_text else "diffusion_pytorch_model.safetensors"
            write(named_for_all(half(part)) if is_text else half(part), folder / file)


def export_tiny_vae(runs: Path, out: Path) -> None:
    tiny = model.tiny_vae()
    tiny.load_state_dict(torch.load(runs / "tiny_vae.pt"))
    tiny.save_config(out / "tiny_vae")
    config = out / "tiny_vae/config.json"
    expected = {
        k: v for k, v in json.loads(config.read_text()).items() if k != "block_out_channels"
    }
    # diffusers writes this key, then warns about it
    config.write_text(json.dumps(expected, indent=2) + "\n")
    write(half(tiny), out / "tiny_vae/diffusion_pytorch_model.safetensors")


def export_judge(runs: Path, out: Path, words: int) -> None:
    folder = out / "judge"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"vocabulary": words}) + "\n")
    weights = torch.load(runs / "judge.pt")
    write({k: v.half().contiguous() for k, v in weights.items()}, folder / "model.safetensors")


def untrained(words: Path) -> StableDiffusionXLPipeline:
    first, second = model.tokenizers(words)
    text, text_2 = model.text_encoders(first)
    return StableDiffusionXLPipeline(
        vae=model.vae(),
        text_encoder=text,
        text_encoder_2=text_2,
        tokenizer=first,
        tokenizer_2=second,
        unet=model.unet(),
        scheduler=model.scheduler(),
        add_watermarker=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--skeleton", action="store_true")
    args = parser.parse_args()
    words = args.runs.parent / "box/tokenizer_words"
    if not (words / "vocab.json").exists():
        model.train_tokenizer(words)
    if args.skeleton:
        export_pipeline(untrained(words), args.out, weights=False)
        return
    pipeline = trained_pipeline(args.runs, words)
    export_pipeline(pipeline, args.out, weights=True)
    if (args.runs / "tiny_vae.pt").exists():
        export_tiny_vae(args.runs, args.out)
    if (args.runs / "judge.pt").exists():
        export_judge(args.runs, args.out, len(pipeline.tokenizer))


if __name__ == "__main__":
    main()
