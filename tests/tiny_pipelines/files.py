"""The files that docs/pipelines.md names, tiny: folders, one checkpoint, a LoRA, pictures, a module
with a pipeline of one's own."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from packaging.version import Version
from PIL import Image

from tiny_pipelines import BREADTH, PIPELINES
from tiny_pipelines.checkpoint import save_checkpoint

# diffusers 0.35 makes modular pipelines of downloaded components alone.
MODULAR = Version(diffusers.__version__) >= Version("0.36.dev0")
FOLDERS = {
    "sdxl": "sdxl",
    "flux": "flux",
    "sd3": "sd3",
    "wan": "wan",
    "sd15": "sd15",
    "img2img": "sdxl_img2img",
    "inpaint": "sd15_inpaint",
    "controlnet": "sd15_controlnet",
}
OWN = """
from diffusers import StableDiffusionPipeline
from tiny_pipelines import PIPELINES

class Mine(StableDiffusionPipeline):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)

def make():
    return Mine(**PIPELINES["sd15"].build().components)
"""
SCRIPT = """
from mypipelines import make

pipeline = make()
pipeline("a red apple", num_inference_steps=2, height=32, width=32)
"""


def save_files(folder: Path) -> None:
    """Write them all."""
    for name, tiny in FOLDERS.items():
        PIPELINES[tiny].build().save_pretrained(folder / name)
    if MODULAR:
        modular = BREADTH["modular_sdxl"].build()
        modular.save_pretrained(str(folder / "modular"), overwrite_modular_index=True)
    save_checkpoint(PIPELINES["sd15"].build(), folder / "model.safetensors")
    save_lora(folder / "style.safetensors")
    for name, colour in (("photo", (200, 40, 40)), ("mask", (255, 255, 255)), ("edges", (0, 0, 0))):
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
    (folder / "mypipelines.py").write_text(OWN)
    (folder / "draw.py").write_text(SCRIPT)


def save_lora(file: Path) -> None:
    """A LoRA for the UNet of the tiny Stable Diffusion 1.5 that changes its pictures."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = PIPELINES["sd15"].build().unet
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    state = get_peft_model_state_dict(unet)
    moved = {name: torch.full_like(weight, 0.3) for name, weight in state.items()}
    diffusers.StableDiffusionPipeline.save_lora_weights(
        file.parent, unet_lora_layers=moved, weight_name=file.name
    )
