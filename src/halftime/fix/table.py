"""The tables: which fixes there are, in which order they are applied, and which exclude each
other."""

from __future__ import annotations

from halftime.fix.attention import ATTENTION_BACKEND, FUSED_QKV
from halftime.fix.base import Fix
from halftime.fix.compilation import DENOISER_COMPILE, VAE_COMPILE
from halftime.fix.device_lookup import KNOWN_DEVICE
from halftime.fix.fewer_evaluations import GUIDANCE_INTERVAL, STEP_CACHE
from halftime.fix.layout import DENOISER_CHANNELS_LAST, VAE_CHANNELS_LAST
from halftime.fix.loop_graph import LOOP_GRAPH
from halftime.fix.onnx_runtime import ONNXRUNTIME
from halftime.fix.openvino import OPENVINO
from halftime.fix.precision import DENOISER_DTYPE, VAE_DTYPE
from halftime.fix.quantize import INT8_DYNAMIC
from halftime.fix.scheduling import PROGRESS_BAR_OFF, SCHEDULE_TABLE, SET_BEGIN_INDEX, SOLVER_STEPS
from halftime.fix.text import BATCH_PROMPTS, PROMPT_CACHE, TEXT_WARMUP
from halftime.fix.tiny_vae import TINY_VAE
from halftime.fix.upsampling import VAE_FOLDED_UPSAMPLE
from halftime.fix.vae_memory import VAE_SLICING_OFF

# In the order of application: what replaces a component before what changes it, weights before what
# wraps a method, compilers last among those, and the loop around everything.
_ALL: tuple[Fix, ...] = (
    PROGRESS_BAR_OFF,
    KNOWN_DEVICE,
    SOLVER_STEPS,
    TINY_VAE,
    FUSED_QKV,
    VAE_FOLDED_UPSAMPLE,
    INT8_DYNAMIC,
    DENOISER_CHANNELS_LAST,
    VAE_CHANNELS_LAST,
    DENOISER_DTYPE,
    VAE_DTYPE,
    VAE_SLICING_OFF,
    ATTENTION_BACKEND,
    STEP_CACHE,
    DENOISER_COMPILE,
    VAE_COMPILE,
    OPENVINO,
    ONNXRUNTIME,
    GUIDANCE_INTERVAL,
    SCHEDULE_TABLE,
    SET_BEGIN_INDEX,
    LOOP_GRAPH,
    BATCH_PROMPTS,
    PROMPT_CACHE,
    TEXT_WARMUP,
)
FIXES: dict[str, Fix] = {fix.name: fix for fix in _ALL}
ORDER: tuple[str, ...] = tuple(FIXES)

# Pairs that cannot stand together where both work on the same part: part -> names, any two of which
# exclude each other.
CONFLICTS: tuple[tuple[str, frozenset[str]], ...] = (
    # loop-graph works on the denoiser itself where its backend is OpenVINO.
    *(
        ("denoiser", frozenset({"openvino", "onnxruntime", "loop-graph", name}))
        for name in (
            "denoiser-compile",
            "int8-dynamic",
            "denoiser-dtype",
            "denoiser-channels-last",
            "attention-backend",
            "fused-qkv",
        )
    ),
    ("vae", frozenset({"openvino", "onnxruntime", "vae-compile"})),
    ("vae", frozenset({"openvino", "onnxruntime", "vae-dtype"})),
    ("vae", frozenset({"openvino", "onnxruntime", "vae-channels-last"})),
    ("scheduler-step", frozenset({"schedule-table", "set-begin-index", "loop-graph"})),
)
# And those that exclude each other whatever they work on: the second would not see what the first
# changes.
ALWAYS: tuple[tuple[frozenset[str], str], ...] = (
    (
        frozenset({"step-cache", "denoiser-compile"}),
        "a compiled denoiser would bake in one of the cache's two paths",
    ),
    (frozenset({"step-cache", "openvino"}), "a converted denoiser has no blocks to skip"),
    (frozenset({"step-cache", "onnxruntime"}), "a converted denoiser has no blocks to skip"),
    (frozenset({"step-cache", "loop-graph"}), "a captured loop cannot decide step by step"),
    (
        frozenset({"guidance-interval", "loop-graph"}),
        "the loop is taken over, so a step's guidance is not seen",
    ),
    (frozenset({"loop-graph", "openvino"}), "the captured loop evaluates the torch denoiser"),
    (frozenset({"loop-graph", "onnxruntime"}), "the captured loop evaluates the torch denoiser"),
    (frozenset({"loop-graph", "denoiser-compile"}), "loop-graph compiles the denoiser itself"),
    (
        frozenset({"attention-backend", "denoiser-compile"}),
        "the kernel is chosen at run time, which breaks the graph",
    ),
    (
        frozenset({"int8-dynamic", "denoiser-dtype"}),
        "quantised weights cannot be cast; int8 keeps its own precision",
    ),
)
