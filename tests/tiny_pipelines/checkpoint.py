"""A tiny Stable Diffusion 1.5 as one checkpoint, with the names that its first code gave its
weights: what model exchanges offer, and `from_single_file` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
_UNET = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
_VAE_ATTENTION = {
    "group_norm.": "norm.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "proj_out.",
}


def save_checkpoint(pipeline: DiffusionPipeline, file: Path) -> None:
    """Write the pipeline's UNet, VAE and text encoder into one file."""
    text = pipeline.text_encoder.state_dict()
    inner = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    tensors = {
        **_prefixed("model.diffusion_model.", _unet(pipeline)),
        **_prefixed("first_stage_model.", _vae(pipeline)),
        **_prefixed("cond_stage_model.transformer.text_model.", inner),
    }
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file)


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        name = name.replace(old, new)
    return name


def _unet(pipeline: DiffusionPipeline) -> dict[str, torch.Tensor]:
    layers = pipeline.unet.config.layers_per_block
    attends = [bool(getattr(block, "attentions", None)) for block in pipeline.unet.up_blocks]
    return {
        _unet_name(name, layers, attends): tensor
        for name, tensor in pipeline.unet.state_dict().items()
    }


def _unet_name(name: str, layers: int, attends: list[bool]) -> str:
    for old, new in _UNET.items():
        if name.startswith(old):
            tail = name.removeprefix(old)
            return new + (_renamed(tail, _RESNET) if "resnets" in old else tail)
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    assert match is not None, name
    side, block, kind, index, tail = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.{tail.replace('conv.', 'op.')}"
        number = f"input_blocks.{(layers + 1) * block + index + 1}"
    else:
        if kind == "upsamplers":
            slot = 2 if attends[block] else 1
            return f"output_blocks.{(layers + 1) * block + layers}.{slot}.{tail}"
        number = f"output_blocks.{(layers + 1) * block + index}"
    if kind == "attentions":
        return f"{number}.1.{tail}"
    return f"{number}.0.{_renamed(tail, _RESNET)}"


def _vae(pipeline: DiffusionPipeline) -> dict[str, torch.Tensor]:
    blocks = len(pipeline.vae.config.block_out_channels)
    tensors = {}
    for name, tensor in pipeline.vae.state_dict().items():
        new = _vae_name(name, blocks)
        linear = ".attn_1." in new and ".norm." not in new and name.endswith("weight")
        tensors[new] = tensor[..., None, None] if linear else tensor
    return tensors


def _vae_name(name: str, blocks: int) -> str:
    name = name.replace("conv_shortcut.", "nin_shortcut.").replace("conv_norm_out.", "norm_out.")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        return _renamed(name.replace("mid_block.attentions.0.", "mid.attn_1."), _VAE_ATTENTION)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(
        r"up_blocks\.(\d)\.resnets", lambda match: f"up.{blocks - 1 - int(match[1])}.block", name
    )
    return re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0",
        lambda match: f"up.{blocks - 1 - int(match[1])}.upsample",
        name,
    )
