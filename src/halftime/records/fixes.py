"""The table of fixes, as data: what each is called, works on, promises, and is expected to save.

To add a fix: its name in `FixName` and its row in `_ROWS` below, at its place in the order of
application; one file in `halftime/fix/` with what it does, entered under that name in
`halftime/fix/table.py`; and its row in docs/fix.md. A test says what is missing. Everything else
reads this table: `profile` and `trace` name its fixes, `forecast` models them, `tune` tries them.

The priors are from this project's runs on CPUs (benchmarks/results) and, for CUDA, from published
ones. They decide only the order of what `profile` names and `tune` tries, and which rivals are
worth their time; what is kept is decided by measurement.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from halftime.records.base import Json, Record

FixName = Literal[
    "progress-bar-off",
    "offload",
    "tf32",
    "cudnn-benchmark",
    "known-device",
    "solver-steps",
    "tiny-vae",
    "lora-fuse",
    "fused-qkv",
    "vae-folded-upsample",
    "denoiser-channels-last",
    "vae-channels-last",
    "denoiser-dtype",
    "vae-dtype",
    "denoiser-quantize",
    "text-quantize",
    "vae-slicing-off",
    "vae-slicing",
    "vae-tiling",
    "attention-backend",
    "denoiser-compile",
    "vae-compile",
    "step-cache",
    "openvino",
    "onnxruntime",
    "guidance-interval",
    "schedule-table",
    "set-begin-index",
    "loop-graph",
    "batch-prompts",
    "prompt-cache",
    "encoding-cache",
    "text-warmup",
]
# Our own code may name only these, which mypy checks; a file may come from a version that has
# others, so a record reads any string.
if TYPE_CHECKING:
    RecordedFixName = FixName
else:
    RecordedFixName = str

Level = Literal["bit-exact", "equivalent", "approximate"]
LedgerPart = tuple[str, str]  # stage and part of the ledger; part '' is the whole stage

DENOISER: LedgerPart = ("denoise", "denoiser")
SCHEDULER: LedgerPart = ("denoise", "scheduler")
PROGRESS_BAR: LedgerPart = ("denoise", "progress_bar")
GLUE: LedgerPart = ("denoise", "glue")
VAE: LedgerPart = ("vae_decode", "")
TEXT: LedgerPart = ("encode_prompt", "")


class Prior(NamedTuple):
    """Expected speedup of a part of the call, and how much longer it makes a first call, in
    seconds; 1.0 means that nothing is expected."""

    cpu: float
    cuda: float
    setup_seconds: float = 0.5


class SettingEffect(Record, frozen=True, kw_only=True):
    """What a fix works on, and is expected to save, where a setting is, or lists, this value."""

    setting: str
    value: str
    part: str
    priors: dict[LedgerPart, Prior]


class Search(Record, frozen=True, kw_only=True):
    """Values of a setting, from the nearest to the plain picture on, of which `tune` finds the last
    that is near enough; `where` the other settings are one of these."""

    setting: str
    values: tuple[float, ...]
    where: dict[str, tuple[str, ...]] = {}


class FixRow(Record, frozen=True, kw_only=True):
    """One fix, as data.

    `part` of `stage` is what would cost nothing at best: Amdahl's bound is computed from it, over
    the call that `ceiling_of` names. `works_on` names what the fix changes, for `CONFLICTS`;
    `priors` and `works_on` hold for every setting, `setting_effects` for some.
    """

    name: FixName
    summary: str  # one sentence
    level: Level
    stage: str  # of the ledger
    part: str = ""  # of that stage; '' is the whole stage
    ceiling_of: Literal["steady call", "first call", "unknown"] = "steady call"
    works_on: tuple[str, ...] = ()
    # The part whose components it changes while it is on; '' changes the pipeline object alone. A
    # runtime's settings name its own.
    changes: Literal["", "denoiser", "vae", "text_encoder"] = ""
    # What becomes of the weights: copied when it is put on, copied into new modules, or read by
    # compiled code as constants.
    weights: Literal["", "copied", "in new modules", "compiled in"] = ""
    settings: dict[str, Json] = {}  # the defaults; a name that is not here is refused
    proposals: tuple[dict[str, Json], ...] = ({},)  # the settings that `tune` tries
    searches: tuple[Search, ...] = ()  # what `tune` finds out for a proposal
    not_tried: str = ""  # why `tune` does not try it on its own
    extra: str | None = None  # halftime[EXTRA] installs its package
    priors: dict[LedgerPart, Prior] = {}
    setting_effects: tuple[SettingEffect, ...] = ()

    @property
    def is_runtime(self) -> bool:
        """Whether it replaces the components that its settings list."""
        return "components" in self.settings

    def parts(self, settings: Mapping[str, Json]) -> frozenset[str]:
        """What it works on with these settings, for `CONFLICTS`."""
        return frozenset({*self.works_on, *(effect.part for effect in self._effects(settings))})

    def expected(self, settings: Mapping[str, Json]) -> dict[LedgerPart, Prior]:
        """Its priors with these settings."""
        priors = dict(self.priors)
        for effect in self._effects(settings):
            priors |= effect.priors
        return priors

    def _effects(self, settings: Mapping[str, Json]) -> Iterator[SettingEffect]:
        for effect in self.setting_effects:
            value = settings.get(effect.setting, self.settings[effect.setting])
            if effect.value == value or (isinstance(value, list) and effect.value in value):
                yield effect


def _component(name: str, part: LedgerPart, prior: Prior) -> SettingEffect:
    return SettingEffect(setting="components", value=name, part=name, priors={part: prior})


def _kind(name: str, prior: Prior) -> SettingEffect:
    """A kind of step cache that saves another share."""
    return SettingEffect(setting="kind", value=name, part="blocks", priors={DENOISER: prior})


_FOR_MEMORY = "it saves memory and costs time: `tune --memory` puts it on where that is needed"
_COMPILE_SETTINGS: dict[str, Json] = {
    "mode": "default",
    "fullgraph": False,
    "dynamic": False,  # shapes are pinned; a new shape compiles anew
    "freezing": True,  # CPU: weights become constants, so that they are packed once
    "conv_flags": False,  # CUDA: Inductor's flags for convolutions, which diffusers' guide sets
    "region": "whole",  # or 'blocks': only the repeated ones, which compiles much faster
}

# In the order of application: what replaces a component before what changes it, weights before what
# wraps a method (quantised last, from the dtype that they end in), compilers after those, then what
# decides which compiled code runs, and the loop around everything.
_ROWS: tuple[FixRow, ...] = (
    FixRow(
        name="progress-bar-off",
        summary="No progress bar.",
        level="bit-exact",
        stage="denoise",
        part="progress_bar",
        works_on=("progress_bar",),
        priors={PROGRESS_BAR: Prior(10.0, 10.0)},
    ),
    FixRow(
        name="offload",
        summary="Weights on the host until they are needed: by component, by block or by layer.",
        level="bit-exact",
        stage="denoise",
        ceiling_of="unknown",
        changes="denoiser",
        works_on=("residency",),
        settings={"kind": "model", "memory": ""},
        not_tried=_FOR_MEMORY,
    ),
    FixRow(
        name="tf32",
        summary="Products of float32 on tensor cores, with TF32's 10 bits of mantissa.",
        level="equivalent",
        stage="denoise",
        part="denoiser",
        works_on=("float32",),
        priors={DENOISER: Prior(1.0, 1.5), VAE: Prior(1.0, 1.5)},
    ),
    FixRow(
        name="cudnn-benchmark",
        summary="cuDNN's fastest algorithm for each new shape of a convolution, found by trying.",
        level="equivalent",
        stage="vae_decode",
        works_on=("convolutions",),
        priors={DENOISER: Prior(1.0, 1.02), VAE: Prior(1.0, 1.1, 5.0)},
    ),
    FixRow(
        name="known-device",
        summary="Where the pipeline runs, looked up once and not in every module at every call.",
        level="bit-exact",
        stage="encode_prompt",
        ceiling_of="unknown",
        works_on=("device-lookup",),
        priors={GLUE: Prior(1.2, 1.2), TEXT: Prior(1.1, 1.1)},
    ),
    FixRow(
        name="solver-steps",
        summary="Another solver, fewer steps.",
        level="approximate",
        stage="denoise",
        works_on=("schedule",),
        settings={"scheduler": "", "steps": 20},
        not_tried="chosen by the sweep",
    ),
    FixRow(
        name="tiny-vae",
        summary="Final pictures through a distilled VAE (TAESD and its kin). Lossy: look at the "
        "contact sheet.",
        level="approximate",
        stage="vae_decode",
        works_on=("vae",),
        settings={"source": ""},
        proposals=({}, {"source": "bundled"}),
        priors={VAE: Prior(4.0, 6.0)},
    ),
    FixRow(
        name="lora-fuse",
        summary="The denoiser's active adapters (LoRA) written into a copy of its weights.",
        level="equivalent",
        stage="denoise",
        changes="denoiser",
        weights="in new modules",
        part="denoiser",
        works_on=("denoiser",),
        priors={DENOISER: Prior(1.15, 1.2)},
    ),
    FixRow(
        name="fused-qkv",
        summary="Query, key and value projections as one matrix product.",
        level="equivalent",
        stage="denoise",
        changes="denoiser",
        weights="in new modules",
        part="denoiser",
        works_on=("denoiser",),
        priors={DENOISER: Prior(1.02, 1.03)},
    ),
    FixRow(
        name="vae-folded-upsample",
        summary="The VAE's doublings and the convolutions after them as one: 4 instead of 9 "
        "multiplications.",
        level="equivalent",
        stage="vae_decode",
        changes="vae",
        weights="in new modules",
        works_on=("vae-upsample",),
        priors={VAE: Prior(1.15, 1.1)},
    ),
    FixRow(
        name="denoiser-channels-last",
        summary="The denoiser's convolution weights in channels_last.",
        level="equivalent",
        stage="denoise",
        changes="denoiser",
        weights="copied",
        part="denoiser",
        works_on=("denoiser",),
        priors={DENOISER: Prior(1.1, 1.1)},
    ),
    FixRow(
        name="vae-channels-last",
        summary="The VAE's convolution weights in channels_last.",
        level="equivalent",
        stage="vae_decode",
        changes="vae",
        weights="copied",
        works_on=("vae",),
        priors={VAE: Prior(1.2, 1.2)},
    ),
    FixRow(
        name="denoiser-dtype",
        summary="Denoise in lower precision; latents and scheduler keep theirs.",
        level="equivalent",
        stage="denoise",
        changes="denoiser",
        weights="copied",
        part="denoiser",
        works_on=("denoiser",),
        settings={"dtype": "fastest"},  # of the device: halftime.pipeline.device
        priors={DENOISER: Prior(1.4, 2.0)},
    ),
    FixRow(
        name="vae-dtype",
        summary="Decode in lower precision. Test hard edges and pixel art on your own pictures.",
        level="equivalent",
        stage="vae_decode",
        changes="vae",
        weights="copied",
        works_on=("vae",),
        settings={"dtype": "fastest"},  # of the device: halftime.pipeline.device
        priors={VAE: Prior(1.9, 2.0)},
    ),
    FixRow(
        name="denoiser-quantize",
        summary="The denoiser's linear layers in 8 or 4 bits (torchao). It can lose time.",
        level="approximate",
        stage="denoise",
        changes="denoiser",
        weights="copied",
        part="denoiser",
        works_on=("denoiser",),
        settings={"kind": "int8-dynamic", "least_features": 128},
        proposals=(
            {"kind": "int8-dynamic"},
            {"kind": "fp8-dynamic"},
            {"kind": "nvfp4-dynamic"},
            {"kind": "int8-weight-only"},
        ),
        extra="torchao",
        priors={DENOISER: Prior(0.7, 1.2, 10.0)},
    ),
    FixRow(
        name="text-quantize",
        summary="The large layers of text encoders in 8 or 4 bits (torchao), for memory first.",
        level="approximate",
        stage="encode_prompt",
        changes="text_encoder",
        weights="copied",
        works_on=("text_encoder",),
        settings={"kind": "int8-weight-only", "least_features": 1024},
        extra="torchao",
        priors={TEXT: Prior(0.8, 1.0, 5.0)},
    ),
    FixRow(
        name="vae-slicing-off",
        summary="Decode the whole batch at once, without slices; costs memory.",
        level="equivalent",
        stage="vae_decode",
        changes="vae",
        works_on=("vae",),
        priors={VAE: Prior(1.05, 1.1)},
    ),
    FixRow(
        name="vae-slicing",
        summary="Decode one picture of a batch at a time; saves memory.",
        level="equivalent",
        stage="vae_decode",
        ceiling_of="unknown",
        changes="vae",
        works_on=("vae",),
        not_tried=_FOR_MEMORY,
    ),
    FixRow(
        name="vae-tiling",
        summary="Decode large pictures in tiles, blended at their edges; saves memory.",
        level="approximate",
        stage="vae_decode",
        ceiling_of="unknown",
        changes="vae",
        works_on=("vae",),
        not_tried=_FOR_MEMORY,
    ),
    FixRow(
        name="attention-backend",
        summary="Another attention kernel: torch's flash, efficient, cudnn or math, or one of "
        "diffusers' backends.",
        level="equivalent",
        stage="denoise",
        changes="denoiser",
        part="denoiser",
        works_on=("denoiser",),
        settings={"backend": "flash"},
        proposals=({}, {"backend": "cudnn"}),
        priors={DENOISER: Prior(1.01, 1.1)},
    ),
    FixRow(
        name="denoiser-compile",
        summary="The denoiser through torch.compile, whole or by repeated blocks.",
        level="equivalent",
        stage="denoise",
        changes="denoiser",
        weights="compiled in",
        part="denoiser",
        works_on=("denoiser",),
        settings=_COMPILE_SETTINGS,
        proposals=({}, {"region": "blocks"}),
        priors={DENOISER: Prior(1.5, 1.3, 90.0)},
        setting_effects=(
            # Each kind of block is compiled once, and not as often as it is repeated.
            SettingEffect(
                setting="region",
                value="blocks",
                part="denoiser",
                priors={DENOISER: Prior(1.4, 1.25, 30.0)},
            ),
        ),
    ),
    FixRow(
        name="vae-compile",
        summary="The VAE's decoder through torch.compile.",
        level="equivalent",
        stage="vae_decode",
        changes="vae",
        weights="compiled in",
        works_on=("vae",),
        settings=_COMPILE_SETTINGS,
        priors={VAE: Prior(1.6, 1.4, 40.0)},
    ),
    FixRow(
        name="step-cache",
        summary="Reuse what earlier steps computed: diffusers' caches for transformers, "
        "DeepCache's idea for UNets.",
        level="approximate",
        stage="denoise",
        changes="denoiser",
        part="denoiser",
        works_on=("blocks",),
        settings={"kind": "", "every": 2, "threshold": 0.1, "full_steps": 0, "hard": []},
        proposals=(
            {"kind": "deep"},
            {"kind": "first-block"},
            {"kind": "mag"},
            {"kind": "taylorseer-lite"},
            {"kind": "taylorseer"},
            {"kind": "pyramid-attention"},
            {"kind": "faster"},
            {"kind": "sea"},
            {"kind": "text-kv"},
        ),
        searches=(
            Search(
                setting="threshold",
                values=(0.02, 0.04, 0.08, 0.12, 0.2, 0.3, 0.5),
                where={"kind": ("first-block", "mag", "sea")},
            ),
            Search(
                setting="every",
                values=(2, 3, 4, 5),
                where={"kind": ("deep", "taylorseer", "taylorseer-lite")},
            ),
        ),
        priors={DENOISER: Prior(1.4, 1.5)},
        # What is skipped is the attention alone, or the texts' part of it.
        setting_effects=(
            _kind("taylorseer", Prior(1.2, 1.2)),
            _kind("pyramid-attention", Prior(1.1, 1.15)),
            _kind("faster", Prior(1.2, 1.25)),
            _kind("text-kv", Prior(1.02, 1.02)),
        ),
    ),
    FixRow(
        name="openvino",
        summary="Denoiser, VAE and, if named, text encoders through OpenVINO, for machines "
        "without a GPU.",
        level="equivalent",
        stage="denoise",
        weights="copied",
        part="denoiser",
        settings={"components": ["denoiser", "vae"], "precision": "bfloat16"},
        proposals=(
            {"components": ["denoiser"]},
            {"components": ["vae"]},
            {"components": ["text_encoder"]},
        ),
        extra="openvino",
        setting_effects=(
            _component("denoiser", DENOISER, Prior(2.7, 1.0, 6.0)),
            _component("vae", VAE, Prior(2.1, 1.0, 5.0)),
            _component("text_encoder", TEXT, Prior(1.4, 1.0, 5.0)),
        ),
    ),
    FixRow(
        name="onnxruntime",
        summary="Denoiser and VAE through ONNX Runtime, for machines without a GPU.",
        level="equivalent",
        stage="denoise",
        weights="copied",
        part="denoiser",
        settings={"components": ["denoiser", "vae"]},
        proposals=(
            {"components": ["denoiser"]},
            {"components": ["vae"]},
            {"components": ["text_encoder"]},
        ),
        extra="onnx",
        setting_effects=(
            _component("denoiser", DENOISER, Prior(1.3, 1.0, 40.0)),
            _component("vae", VAE, Prior(1.2, 1.0, 20.0)),
            _component("text_encoder", TEXT, Prior(1.3, 1.0, 20.0)),
        ),
    ),
    FixRow(
        name="guidance-interval",
        summary="Guidance on part of the steps only; the others evaluate half the batch.",
        level="approximate",
        stage="denoise",
        changes="denoiser",
        part="denoiser",
        works_on=("evaluations",),
        settings={"start": 0.0, "stop": 0.7},
        proposals=({}, {"stop": 0.5}),
        priors={DENOISER: Prior(1.2, 1.1)},
    ),
    FixRow(
        name="schedule-table",
        summary="The scheduler as a table: each step one multiply-add, no scheduler code, no sync.",
        level="equivalent",
        stage="denoise",
        part="scheduler",
        works_on=("scheduler-step",),
        priors={SCHEDULER: Prior(3.0, 5.0)},
    ),
    FixRow(
        name="set-begin-index",
        summary="Tell the scheduler where it starts, so that it does not search the schedule on "
        "the device.",
        level="bit-exact",
        stage="denoise",
        part="scheduler",
        works_on=("scheduler-step",),
        priors={SCHEDULER: Prior(1.3, 1.5)},
    ),
    FixRow(
        name="loop-graph",
        summary="The whole denoising loop as one CUDA graph; on the CPU as one step function.",
        level="equivalent",
        stage="denoise",
        changes="denoiser",
        weights="compiled in",
        works_on=("loop", "scheduler-step", "denoiser-compile"),
        settings={"backend": "inductor", "precision": "bfloat16", "watch_bytes": 256 * 2**20},
        proposals=({}, {"backend": "openvino"}),
        priors={
            DENOISER: Prior(1.5, 1.1, 90.0),
            SCHEDULER: Prior(5.0, 5.0),
            GLUE: Prior(2.0, 5.0),
        },
        setting_effects=(
            # OpenVINO converts the denoiser's weights too, so nothing else may change them.
            SettingEffect(
                setting="backend",
                value="openvino",
                part="denoiser",
                priors={DENOISER: Prior(2.9, 1.0, 8.0)},
            ),
        ),
    ),
    FixRow(
        name="batch-prompts",
        summary="Positive and negative prompt through the text encoders in one forward.",
        level="equivalent",
        stage="encode_prompt",
        works_on=("encode_prompt",),
        priors={TEXT: Prior(1.3, 1.5)},
    ),
    FixRow(
        name="prompt-cache",
        summary="Keep the embeddings of the last prompts; pays where prompts repeat.",
        level="bit-exact",
        stage="encode_prompt",
        works_on=("encode_prompt",),
        settings={"size": 64},
        priors={TEXT: Prior(20.0, 20.0)},
    ),
    FixRow(
        name="encoding-cache",
        summary="Keep what encoders made of the very same input: a negative prompt, a reference "
        "picture.",
        level="bit-exact",
        stage="encode_prompt",
        works_on=("encodings",),
        settings={"size": 8},
        priors={TEXT: Prior(1.5, 1.5)},
    ),
    FixRow(
        name="text-warmup",
        summary="Run the text encoders once before the first request.",
        level="bit-exact",
        stage="encode_prompt",
        ceiling_of="first call",
        works_on=("text-warmup",),
        not_tried="changes the first call alone, which a steady measurement cannot see; "
        "`halftime serve` warms up",
    ),
)
FIX_ROWS: dict[str, FixRow] = {row.name: row for row in _ROWS}
ORDER: tuple[FixName, ...] = tuple(row.name for row in _ROWS)

# Fixes that exclude each other where both work on the same part: the part, and names of which any
# two do.
CONFLICTS: tuple[tuple[str, frozenset[FixName]], ...] = (
    # loop-graph works on the denoiser itself where its backend is OpenVINO
    ("denoiser", frozenset({"openvino", "onnxruntime", "loop-graph", "denoiser-compile"})),
    ("denoiser", frozenset({"openvino", "onnxruntime", "loop-graph", "denoiser-quantize"})),
    ("denoiser", frozenset({"openvino", "onnxruntime", "loop-graph", "denoiser-dtype"})),
    ("denoiser", frozenset({"openvino", "onnxruntime", "loop-graph", "denoiser-channels-last"})),
    ("denoiser", frozenset({"openvino", "onnxruntime", "loop-graph", "attention-backend"})),
    ("denoiser", frozenset({"openvino", "onnxruntime", "loop-graph", "fused-qkv"})),
    ("text_encoder", frozenset({"openvino", "onnxruntime", "text-quantize"})),
    ("vae", frozenset({"openvino", "onnxruntime", "vae-compile"})),
    ("vae", frozenset({"openvino", "onnxruntime", "vae-dtype"})),
    ("vae", frozenset({"openvino", "onnxruntime", "vae-channels-last"})),
    ("vae", frozenset({"openvino", "onnxruntime", "vae-slicing"})),
    ("vae", frozenset({"openvino", "onnxruntime", "vae-tiling"})),
    ("scheduler-step", frozenset({"schedule-table", "set-begin-index", "loop-graph"})),
)
# Names of earlier versions: what they are now, with which settings.
RENAMED: dict[str, tuple[FixName, dict[str, Json]]] = {
    "int8-dynamic": ("denoiser-quantize", {"kind": "int8-dynamic"})
}

# Pairs that exclude each other whatever they work on, because the second would not see what the
# first changes; and why.
ALWAYS: tuple[tuple[frozenset[FixName], str], ...] = (
    (frozenset({"loop-graph", "openvino"}), "the captured loop evaluates the torch denoiser"),
    (frozenset({"loop-graph", "onnxruntime"}), "the captured loop evaluates the torch denoiser"),
    (frozenset({"offload", "loop-graph"}), "a captured loop has its weights where they were"),
    (frozenset({"offload", "openvino"}), "OpenVINO keeps weights of its own, on the host"),
    (frozenset({"offload", "onnxruntime"}), "ONNX Runtime keeps weights of its own"),
    (frozenset({"loop-graph", "denoiser-compile"}), "loop-graph compiles the denoiser itself"),
)


class Exclusion(NamedTuple):
    """Two fixes that exclude each other where each of their settings is one of these values."""

    left: FixName
    left_settings: Mapping[str, Collection[Json]]
    right: FixName
    right_settings: Mapping[str, Collection[Json]]
    reason: str


_TAKES_THE_DENOISER: tuple[FixName, ...] = ("openvino", "onnxruntime", "loop-graph")
_NO_BLOCKS = "a converted denoiser has no blocks to skip; only a UNet's cache, 'deep', goes with it"
# A cache's hooks decide in Python what runs. Those on the blocks are outside of compiled blocks,
# and break the graph of a denoiser that is compiled whole. Those on the attention inside the
# blocks would be compiled, with the number of the step as a constant.
_OF_TRANSFORMERS = (
    *("first-block", "mag", "taylorseer", "taylorseer-lite", "pyramid-attention", "faster"),
    *("sea", "text-kv"),
)
NOT_BY_BLOCKS = (
    "the weights are moved block by block, and kind 'text-kv' uses those of a block before it is "
    "called"
)
EXCLUSIONS: tuple[Exclusion, ...] = (
    # A UNet's cache chooses between two passes, which are converted. The others choose by block.
    *(
        Exclusion("step-cache", {"kind": _OF_TRANSFORMERS}, runtime, {}, _NO_BLOCKS)
        for runtime in _TAKES_THE_DENOISER
    ),
    Exclusion(
        "step-cache",
        {"kind": ("taylorseer", "pyramid-attention", "faster", "text-kv")},
        "denoiser-compile",
        {},
        "this kind of cache is inside of the compiled blocks, which would be compiled anew at each "
        "step; use kind = 'first-block', 'mag' or 'taylorseer-lite'",
    ),
    Exclusion(
        "step-cache",
        {"kind": ("mag", "taylorseer-lite", "sea")},
        "denoiser-compile",
        {"region": ("whole",)},
        "this kind of cache keeps the blocks out of a denoiser that is compiled whole; use region "
        "= 'blocks'",
    ),
    Exclusion(
        "step-cache",
        {},
        "denoiser-compile",
        {"region": ("whole",), "fullgraph": (True,)},
        "a cache decides in the middle of the denoiser, which then is not one graph; use "
        "fullgraph = false, or region = 'blocks'",
    ),
    Exclusion(
        "step-cache",
        {},
        "denoiser-compile",
        {"mode": ("reduce-overhead", "max-autotune")},
        "a CUDA graph overwrites what a cache keeps for the next step; use mode = 'default' or "
        "'max-autotune-no-cudagraphs'",
    ),
    Exclusion(
        "step-cache",
        {"kind": ("text-kv",)},
        "offload",
        {"kind": ("group", "auto")},
        f"{NOT_BY_BLOCKS}; use kind = 'leaf' or 'model'",
    ),
    *(
        Exclusion(
            "offload",
            {"kind": ("group", "leaf", "auto")},
            row.name,
            {},
            "the weights are moved layer by layer, and the other fix reads them where they are "
            "not; use kind = 'model'",
        )
        for row in _ROWS
        if row.weights and not row.is_runtime and row.name != "loop-graph"
    ),
)
