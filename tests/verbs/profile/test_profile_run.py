"""`profile` end to end on a tiny pipeline, and the pure parts around it."""

from __future__ import annotations

import json

import pytest
import torch

import halftime
from halftime.base.errors import BadInput, HalftimeError, OutOfMemory, Unlike
from halftime.base.store import to_json
from halftime.pipeline.load import LoadedPipeline
from halftime.records import LedgerRow, Session, Workload
from halftime.records.stages import Place
from halftime.verbs.profile import coldstart
from halftime.verbs.profile.call import out_of_memory_explained, quiet_progress_bars, timed_call
from halftime.verbs.profile.compare import checked_alike, differences
from halftime.verbs.profile.run import ProfileSettings, measure, measure_in_turns, with_flops
from tiny_pipelines import PIPELINES

WORK = Workload(steps=3, width=32, height=32)


@pytest.fixture(scope="module")
def session() -> Session:
    return halftime.profile(PIPELINES["sdxl"].build(), WORK, runs=3)


def test_the_contract_for_scripts(session: Session) -> None:
    data = json.loads(to_json(session))
    assert data["schema"] == 1
    assert {"wall_seconds", "ledger", "findings", "environment", "workload"} <= set(data)
    assert all(
        {"stage", "seconds", "share", "first_call_seconds"} <= set(row) for row in data["ledger"]
    )
    assert "unexplained" in [row["stage"] for row in data["ledger"]]
    assert sum(row["seconds"] for row in data["ledger"]) == pytest.approx(data["wall_seconds"])
    assert data["findings"]
    assert all(
        {"id", "stage", "seconds", "ceiling", "fix", "message"} <= set(finding)
        for finding in data["findings"]
    )


def test_what_a_session_holds(session: Session) -> None:
    assert session.pipeline == "StableDiffusionXLPipeline"
    assert len(session.runs) == 3
    assert session.first_run is not None
    assert session.workload.device == "cpu"  # the one that nobody named
    assert session.workload_hash == session.workload.content_hash()
    denoise = session.row("denoise")
    assert denoise is not None
    assert denoise.per_step is not None
    assert denoise.per_step.count == 3
    assert session.memory is not None
    assert {"denoise", "vae_decode"} <= {stage.stage for stage in session.memory.stages}
    assert all((stage.peak_bytes or 0) > 1e7 for stage in session.memory.stages)


def test_pipelines_in_turns_have_a_session_each(monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines = [PIPELINES["sdxl"].build() for _ in range(2)]
    called: list[int] = []

    def timed(pipeline: object, *rest: object) -> object:
        called.append(pipelines.index(pipeline))
        return timed_call(pipeline, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("halftime.verbs.profile.run.timed_call", timed)
    several = [
        LoadedPipeline(pipeline, name, ()) for pipeline, name in zip(pipelines, "ab", strict=True)
    ]
    sessions = measure_in_turns(several, WORK, ProfileSettings(runs=2, warmup=1, probes=False))
    assert called == [0, 1, 1, 0, 0, 1, 1, 0]
    assert [session.model for session in sessions] == ["a", "b"]
    for session in sessions:
        assert len(session.runs) == 2
        assert sum(row.seconds for row in session.ledger) == pytest.approx(session.wall_seconds)
    assert sessions[0].wall_seconds != sessions[1].wall_seconds


def test_flops_are_those_of_torchs_own_counter(session: Session) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    pipeline = PIPELINES["sdxl"].build()
    latents = torch.randn(1, 4, 16, 16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pipeline.vae.decode(latents)
    row = session.row("vae_decode")
    assert row is not None
    assert row.flops is not None
    # torch's registry lacks the CPU's fused attention, which ours counts: 4 * tokens^2 * channels
    # in the mid block.
    assert row.flops - counter.get_total_flops() == 4 * 256**2 * 64
    assert row.flops_per_second == pytest.approx(row.flops / row.seconds)


def test_flops_of_the_denoiser_follow_the_number_of_steps() -> None:
    part = LedgerRow(stage="denoiser", seconds=2.0, share=0.5, calls=30)
    row = LedgerRow(stage="denoise", seconds=4.0, share=1.0, calls=30, parts=(part,))
    [rated] = with_flops([row], {Place("denoise", "denoiser"): (200.0, 2)})
    assert rated.flops == 3000
    assert rated.parts[0].flops_per_second == 1500


def test_runs_and_warmup_are_checked() -> None:
    with pytest.raises(BadInput, match="runs must be 1 or more"):
        ProfileSettings(runs=0)
    with pytest.raises(BadInput, match="warmup -1"):
        ProfileSettings(warmup=-1)


def test_the_pipelines_own_progress_bar_is_silent_and_restored(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pipeline = PIPELINES["sdxl"].build()
    pipeline.set_progress_bar_config(desc="noise")
    with quiet_progress_bars(pipeline):
        measure(LoadedPipeline(pipeline, "x", ()), WORK, ProfileSettings(1, 0, probes=False))
    assert "noise" not in capfd.readouterr().err
    assert pipeline._progress_bar_config == {"desc": "noise"}


@pytest.mark.slow
def test_a_cold_start_in_a_fresh_process() -> None:
    cold = coldstart.measure("tiny_pipelines.images:sd15", WORK)
    assert cold.process_seconds > cold.import_seconds + cold.load_seconds + cold.first_call_seconds
    assert cold.import_seconds > 0.1
    assert sum(row.seconds for row in cold.first_call) == pytest.approx(cold.first_call_seconds)


def test_a_cold_start_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends before it has imported torch."""
    started = coldstart.in_fresh_process
    monkeypatch.setattr(
        coldstart,
        "in_fresh_process",
        lambda module, task, timeout: started("halftime.nothing", task, timeout),
    )
    words = r"cold start failed: .*No module named halftime\.nothing.* --no-cold-start"
    with pytest.raises(HalftimeError, match=words):
        coldstart.measure("tiny_pipelines.images:sd15", Workload())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 1 bytes"
        ),
        MemoryError(),
    ],
)
def test_out_of_memory_is_said_in_one_way(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match=r"Try a smaller size"), out_of_memory_explained():
        raise error


def test_other_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_explained():
        raise RuntimeError("shape mismatch")


def test_like_sessions_compare_and_unlike_ones_name_the_field(session: Session) -> None:
    import msgspec

    checked_alike(session, session)
    other = msgspec.structs.replace(session, workload=Workload(steps=4, width=32, height=32))
    assert list(differences(session, other)) == ["workload.steps"]
    with pytest.raises(Unlike, match=r"workload\.steps is 3 in one and 4 in the other"):
        checked_alike(session, other)
    place = msgspec.structs.replace(session.environment, threads=64, load_average=9.0)
    assert list(differences(session, msgspec.structs.replace(session, environment=place))) == [
        "environment.threads"
    ]


@pytest.mark.gpu
def test_on_a_gpu_the_ledger_adds_up_and_shows_launch_gaps() -> None:
    pipeline = PIPELINES["sdxl"].build().to("cuda")
    session = halftime.profile(pipeline, Workload(steps=8, width=32, height=32, device="cuda"))
    assert sum(row.seconds for row in session.ledger) == pytest.approx(session.wall_seconds)
    denoise = session.row("denoise")
    assert denoise is not None
    assert denoise.launch_gap_seconds is not None
    assert denoise.launch_gap_seconds > 0.5 * denoise.seconds  # a tiny model is launch-bound
