"""What each fix of the table in `halftime.records.fixes` does: one entry a fix."""

from __future__ import annotations

from msgspec import structs

from halftime.fix.attention import ATTENTION_BACKEND, FUSED_QKV
from halftime.fix.base import Fix, FixCode
from halftime.fix.compilation import DENOISER_COMPILE, VAE_COMPILE
from halftime.fix.device_lookup import KNOWN_DEVICE
from halftime.fix.encoding_cache import ENCODING_CACHE
from halftime.fix.guidance_interval import GUIDANCE_INTERVAL
from halftime.fix.layout import DENOISER_CHANNELS_LAST, VAE_CHANNELS_LAST
from halftime.fix.loop_graph import LOOP_GRAPH
from halftime.fix.lora import LORA_FUSE
from halftime.fix.offload import OFFLOAD
from halftime.fix.onnx_runtime import ONNXRUNTIME
from halftime.fix.openvino import OPENVINO
from halftime.fix.precision import DENOISER_DTYPE, VAE_DTYPE
from halftime.fix.quantize import DENOISER_QUANTIZE, TEXT_QUANTIZE
from halftime.fix.scheduling import PROGRESS_BAR_OFF, SCHEDULE_TABLE, SET_BEGIN_INDEX, SOLVER_STEPS
from halftime.fix.step_cache import STEP_CACHE
from halftime.fix.switches import CUDNN_BENCHMARK, TF32
from halftime.fix.text import BATCH_PROMPTS, PROMPT_CACHE, TEXT_WARMUP
from halftime.fix.tiny_vae import TINY_VAE
from halftime.fix.upsampling import VAE_FOLDED_UPSAMPLE
from halftime.fix.vae_memory import VAE_SLICING, VAE_SLICING_OFF, VAE_TILING
from halftime.records.fixes import FIX_ROWS, ORDER, FixName

_CODE: dict[FixName, FixCode] = {
    "progress-bar-off": PROGRESS_BAR_OFF,
    "offload": OFFLOAD,
    "tf32": TF32,
    "cudnn-benchmark": CUDNN_BENCHMARK,
    "known-device": KNOWN_DEVICE,
    "solver-steps": SOLVER_STEPS,
    "tiny-vae": TINY_VAE,
    "lora-fuse": LORA_FUSE,
    "fused-qkv": FUSED_QKV,
    "vae-folded-upsample": VAE_FOLDED_UPSAMPLE,
    "denoiser-channels-last": DENOISER_CHANNELS_LAST,
    "vae-channels-last": VAE_CHANNELS_LAST,
    "denoiser-dtype": DENOISER_DTYPE,
    "vae-dtype": VAE_DTYPE,
    "denoiser-quantize": DENOISER_QUANTIZE,
    "text-quantize": TEXT_QUANTIZE,
    "vae-slicing-off": VAE_SLICING_OFF,
    "vae-slicing": VAE_SLICING,
    "vae-tiling": VAE_TILING,
    "attention-backend": ATTENTION_BACKEND,
    "denoiser-compile": DENOISER_COMPILE,
    "vae-compile": VAE_COMPILE,
    "step-cache": STEP_CACHE,
    "openvino": OPENVINO,
    "onnxruntime": ONNXRUNTIME,
    "guidance-interval": GUIDANCE_INTERVAL,
    "schedule-table": SCHEDULE_TABLE,
    "set-begin-index": SET_BEGIN_INDEX,
    "loop-graph": LOOP_GRAPH,
    "batch-prompts": BATCH_PROMPTS,
    "prompt-cache": PROMPT_CACHE,
    "encoding-cache": ENCODING_CACHE,
    "text-warmup": TEXT_WARMUP,
}
FIXES: dict[str, Fix] = {
    name: Fix(**structs.asdict(FIX_ROWS[name]), **_CODE[name]._asdict()) for name in ORDER
}
