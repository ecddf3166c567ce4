"""Plans and recipes: what is refused, what is warned about, and what survives a file."""

from pathlib import Path

import msgspec
import pytest

import halftime
from halftime.base.errors import BadFile, BadInput, DoesNotApply, Unlike
from halftime.base.store import read_toml, write_toml
from halftime.fix import FIXES
from halftime.fix.apply import architecture, choose, conflict, open_findings, read_plan, reasons
from halftime.pipeline.device import device_of, this_environment
from halftime.records import Finding, LedgerRow, Session, Workload
from halftime.records.recipe import Choice, Plan, Recipe, Rung

NAMES = {
    "vae-dtype",
    "vae-channels-last",
    "vae-compile",
    "vae-slicing-off",
    "vae-slicing",
    "vae-tiling",
    "tiny-vae",
    "text-warmup",
    "prompt-cache",
    "batch-prompts",
    "denoiser-dtype",
    "denoiser-channels-last",
    "denoiser-compile",
    "fused-qkv",
    "attention-backend",
    "denoiser-quantize",
    "text-quantize",
    "lora-fuse",
    "offload",
    "tf32",
    "cudnn-benchmark",
    "encoding-cache",
    "guidance-interval",
    "step-cache",
    "openvino",
    "onnxruntime",
    "schedule-table",
    "set-begin-index",
    "loop-graph",
    "solver-steps",
    "progress-bar-off",
    "known-device",
    "vae-folded-upsample",
}


@pytest.fixture(scope="module")
def pipeline():  # type: ignore[no-untyped-def]
    return halftime.bundled.load()


def test_no_fix_is_missing() -> None:
    assert set(FIXES) == NAMES


def test_importing_the_names_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, halftime, halftime.fix; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("plan", "error", "words"),
    [
        (["vae-dtpye"], BadInput, "vae-dtpye"),
        (["vae-dtype", "vae-dtype"], BadInput, "2 times"),
        ([Choice(name="vae-dtype", settings={"dtyp": "float16"})], BadInput, "dtyp"),
        ([Choice(name="vae-dtype", settings={"dtype": 16})], BadInput, "16"),
        ([Choice(name="vae-dtype", settings={"dtype": "int3"})], DoesNotApply, "int3"),
        (["openvino", "denoiser-compile"], DoesNotApply, "denoiser"),
        (["schedule-table", "loop-graph"], DoesNotApply, "scheduler-step"),
        ([Choice(name="guidance-interval", settings={"stop": 1.5})], DoesNotApply, "stop"),
        ([Choice(name="solver-steps", settings={"scheduler": "NoSuch"})], DoesNotApply, "NoSuch"),
    ],
)
def test_what_is_refused(
    plan: list[str | Choice], error: type[Exception], words: str, pipeline
) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words), halftime.applied(pipeline, plan):
        pass


def test_a_runtime_for_the_vae_stands_beside_a_compiled_denoiser() -> None:
    vae_only = Choice(name="openvino", settings={"components": ["vae"]})
    one, other = choose(Plan(fixes=(vae_only, Choice(name="denoiser-compile"))))
    assert conflict(one, other) is None


def test_sdxls_overflowing_float16_vae_is_recognised(pipeline) -> None:  # type: ignore[no-untyped-def]
    fix, settings = FIXES["vae-dtype"], {"dtype": "float16"}
    assert fix.applies(pipeline, device_of(pipeline), settings) is None
    config = pipeline.vae.config
    try:
        pipeline.vae.register_to_config(force_upcast=True)
        assert "overflows" in str(fix.applies(pipeline, device_of(pipeline), settings))
    finally:
        pipeline.vae.register_to_config(force_upcast=config["force_upcast"])


def recipe(pipeline, **changes: object) -> Recipe:  # type: ignore[no-untyped-def]
    made = Recipe(
        pipeline=type(pipeline).__name__,
        architecture=architecture(pipeline),
        fixes=(
            Choice(name="vae-dtype", settings={"dtype": "bfloat16"}),
            Choice(name="schedule-table"),
        ),
        environment=this_environment(),
        ladder=(Rung(fix="vae-dtype", level="equivalent", predicted=1.2, kept=True),),
    )
    return msgspec.structs.replace(made, **changes)


def test_a_recipe_survives_its_file(tmp_path: Path, pipeline) -> None:  # type: ignore[no-untyped-def]
    write_toml(tmp_path / "recipe.toml", recipe(pipeline))
    assert read_toml(tmp_path / "recipe.toml", Recipe) == recipe(pipeline)
    assert isinstance(read_plan(tmp_path / "recipe.toml"), Recipe)
    with halftime.applied(pipeline, tmp_path / "recipe.toml") as same:
        assert same is pipeline


def test_a_plan_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('schema = 1\n[[fixes]]\nname = "vae-dtype"\n', encoding="utf-8")
    assert read_plan(path) == Plan(fixes=(Choice(name="vae-dtype"),))
    path.write_text('schema = 1\n[[fixes]]\nname = "vae-dtype"\nrun = "rm"\n', encoding="utf-8")
    with pytest.raises(BadFile, match="run"):
        read_plan(path)


def test_another_architecture_is_refused(pipeline) -> None:  # type: ignore[no-untyped-def]
    other = recipe(
        pipeline,
        architecture={**architecture(pipeline), "unet": "UNet2DConditionModel:000000000000"},
    )
    with pytest.raises(Unlike, match="unet"), halftime.applied(pipeline, other):
        pass


def test_another_torch_and_device_are_warned_about(pipeline) -> None:  # type: ignore[no-untyped-def]
    here = this_environment()
    made = msgspec.structs.replace(
        here, versions={**here.versions, "torch": "1.0"}, device="cuda:0"
    )
    with (
        pytest.warns(UserWarning, match="another") as seen,
        halftime.applied(pipeline, recipe(pipeline, environment=made)),
    ):
        pass
    assert any("torch (1.0" in str(w.message) for w in seen)
    assert any("device (cuda:0" in str(w.message) for w in seen)


def test_reasons_are_given_for_every_fix(pipeline) -> None:  # type: ignore[no-untyped-def]
    found = reasons(pipeline)
    assert set(found) == NAMES
    assert found["set-begin-index"] is not None  # SDXL's loop sets it
    assert found["schedule-table"] is None


def test_ceilings_come_from_a_ledger() -> None:
    rows = (
        LedgerRow(stage="encode_prompt", seconds=0.1, share=0.1, first_call_seconds=0.6),
        LedgerRow(
            stage="denoise",
            seconds=0.6,
            share=0.6,
            parts=(LedgerRow(stage="denoiser", seconds=0.5, share=0.5),),
        ),
        LedgerRow(stage="vae_decode", seconds=0.3, share=0.3),
    )
    session = Session(
        wall_seconds=1.0,
        first_call_seconds=2.0,
        ledger=rows,
        environment=this_environment(),
        workload=Workload(),
    )
    assert FIXES["vae-dtype"].ceiling(session) == pytest.approx(1 / 0.7)
    assert FIXES["denoiser-dtype"].ceiling(session) == pytest.approx(2.0)
    assert FIXES["text-warmup"].ceiling(session) == pytest.approx(2.0 / 1.5)
    assert FIXES["schedule-table"].ceiling(session) is None


def test_a_session_under_a_plan_is_not_told_to_do_what_the_plan_does_or_excludes() -> None:
    session = Session(
        wall_seconds=1.0, ledger=(), environment=this_environment(), workload=Workload()
    )
    named = ("loop-graph", "vae-dtype", "denoiser-dtype", "prompt-cache", None)
    found = tuple(Finding(id=str(fix), stage="denoise", message="", fix=fix) for fix in named)
    whole = msgspec.structs.replace(session, findings=found)

    def left(*fixes: Choice) -> list[str | None]:
        return [each.fix for each in open_findings(whole, Plan(fixes=fixes)).findings]

    assert left() == list(named)
    graph = Choice(name="loop-graph", settings={"backend": "openvino"})
    assert left(graph, Choice(name="openvino", settings={"components": ["vae"]})) == [
        "prompt-cache",
        None,
    ]
    assert left(Choice(name="prompt-cache")) == ["loop-graph", "vae-dtype", "denoiser-dtype", None]
