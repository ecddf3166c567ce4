"""Writes the model folder that halftime ships. With --skeleton: configurations and tokenizers, no weights."""

import argparse
from pathlib import Path

import model
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import nn


def half(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().half().contiguous() if v.is_floating_point() else v for k, v in module.state_dict().items()}


def export_pipeline(runs: Path | None, out: Path) -> None:
    first, second = model.tokenizers(out / "tokenizer_words")
    text, text_2 = model.text_encoders(first)
    parts = {"text_encoder": text, "text_encoder_2": text_2, "unet": model.unet(), "vae": model.vae()}
    if runs is not None:
        for name, weights in torch.load(runs / "final.pt").items():
            parts[name].load_state_dict(weights)
    pipeline = StableDiffusionXLPipeline(
        tokenizer=first, tokenizer_2=second, scheduler=model.scheduler(), add_watermarker=False, **parts
    )
    pipeline.save_config(out / "model")
    for name in ("tokenizer", "tokenizer_2", "scheduler"):
        getattr(pipeline, name).save_pretrained(out / "model" / name)
    for name, part in parts.items():
        folder = out / "model" / name
        is_text = name.startswith("text")
        (part.config.save_pretrained if is_text else part.save_config)(folder)
        if runs is not None:
            file = "model.safetensors" if is_text else "diffusion_pytorch_model.safetensors"
            save_file(half(part), folder / file, {"format": "pt"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--skeleton", action="store_true")
    args = parser.parse_args()
    if not (args.out / "tokenizer_words/vocab.json").exists():
        model.train_tokenizer(args.out / "tokenizer_words")
    export_pipeline(None if args.skeleton else args.runs, args.out)
