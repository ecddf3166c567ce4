"""A synthetic GPU run with planted stalls is explained to the microsecond."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import halftime
from halftime.verbs.trace.run import explain
from trace_synthetic import Synthetic, diffusion

MICRO = 1e-6


def test_planted_stalls_are_explained_to_the_microsecond(tmp_path: Path) -> None:
    truth = diffusion(Synthetic())
    session = halftime.trace(truth.write(tmp_path / "t.json.gz"))
    assert session.kind == "trace"
    assert session.device is not None
    assert session.device.busy_seconds == pytest.approx(truth.busy * MICRO, abs=1e-9)
    for cause, idle in truth.idle.items():
        assert session.device.idle_by_cause[cause] == pytest.approx(idle * MICRO, abs=1e-9), cause
    # By hand: after each of five waits the host takes 1 us to come back, works 100 us and launches
    # in 4 us.
    assert session.device.idle_by_cause["sync"] == pytest.approx(5 * 105 * MICRO, abs=1e-9)
    assert session.device.idle_seconds == pytest.approx(sum(session.device.idle_by_cause.values()))
    assert sum(row.seconds for row in session.ledger) == pytest.approx(session.wall_seconds)
    assert [row.stage for row in session.ledger] == [
        "encode_prompt",
        "denoise",
        "vae_decode",
        "unexplained",
    ]


def test_each_wait_has_its_true_cost(tmp_path: Path) -> None:
    session = halftime.trace(diffusion(Synthetic()).write(tmp_path / "t.json"))
    by_name = {wait.name: wait for wait in session.syncs}
    item = by_name["cudaStreamSynchronize"]
    assert (item.stage, item.count) == ("denoise", 5)
    assert item.wall_seconds == pytest.approx(5 * 105 * MICRO, abs=1e-9)
    # Mostly hidden: the host waits for a full step of kernels, and that costs nothing.
    assert item.host_seconds > 5 * item.wall_seconds
    last = by_name["cudaDeviceSynchronize"]
    assert last.wall_seconds == 0
    assert last.host_seconds > 2000 * MICRO


def test_findings_have_true_ceilings(tmp_path: Path) -> None:
    session = halftime.trace(diffusion(Synthetic(), kernel=20.0).write(tmp_path / "t.json"))
    waits = next(finding for finding in session.findings if finding.id == "host-waits")
    assert waits.fix == "schedule-table"
    assert waits.ceiling == pytest.approx(
        session.wall_seconds / (session.wall_seconds - 525 * MICRO)
    )


def test_a_slow_host_is_launch_bound_and_a_fast_one_is_not(tmp_path: Path) -> None:
    slow_run = diffusion(Synthetic(overhead=40.0), kernel=5.0, sync_every_step=False)
    fast_run = diffusion(Synthetic(), kernel=500.0, sync_every_step=False)
    slow = halftime.trace(slow_run.write(tmp_path / "a.json"))
    fast = halftime.trace(fast_run.write(tmp_path / "b.json"))
    bounds = {stage.stage: stage.bound for stage in slow.on_device}
    assert bounds["denoise"] == "launch-bound"
    assert "launch-bound" in {finding.id for finding in slow.findings}
    assert {stage.stage: stage.bound for stage in fast.on_device}["vae_decode"] == "compute-bound"
    assert fast.findings == ()
    denoise = next(stage for stage in fast.on_device if stage.stage == "denoise")
    assert denoise.kernels_per_step == 21
    assert denoise.queue_depth is not None
    assert denoise.queue_depth > 10
    slow_denoise = next(stage for stage in slow.on_device if stage.stage == "denoise")
    assert slow_denoise.launch_latency_seconds == pytest.approx(2 * MICRO, abs=1e-9)
    assert slow_denoise.queue_depth == 1


def test_top_kernels_copies_graphs_and_memory(tmp_path: Path) -> None:
    trace = Synthetic()
    for step in range(3):
        with trace.range(f"halftime/denoise/denoiser#{step}"):
            trace.memory(1000 + step * (100 << 20))
            trace.launch("captured", 700.0, call="cudaGraphLaunch")
            trace.launch("small", 1.0)
            trace.copy_to_host(4096)
        with trace.range(f"halftime/denoise/scheduler#{step}"):
            trace.copy("Memcpy HtoD (Pageable -> Device)", 512, 2.0)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    [denoise] = session.on_device
    assert denoise.graph_replays == 3
    assert (denoise.top_kernels[0].name, denoise.top_kernels[0].count) == ("captured", 3)
    assert denoise.top_kernels[0].seconds == pytest.approx(2100 * MICRO)
    assert session.device is not None
    assert session.device.memcpy_bytes == {"HtoD": 3 * 512, "DtoH": 3 * 4096}
    assert denoise.memory_growth_bytes == 200 << 20
    assert "memory-growth" in {finding.id for finding in session.findings}


@pytest.mark.parametrize("ranged", [True, False])
def test_steps_are_found_with_and_without_ranges(tmp_path: Path, ranged: bool) -> None:
    trace = diffusion(Synthetic(), steps=8, ranged=ranged)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    # Nothing in a recording without ranges says what repeats, so it is called a guess.
    stage = "denoise" if ranged else "steps (a guess)"
    loop = session.row(stage)
    assert loop is not None
    assert loop.per_step is not None
    assert loop.per_step.count == 8
    # A step: 20 kernels, the scheduler's, the copy, and the stall after it.
    assert loop.per_step.median_seconds == pytest.approx(
        (20 * 50 + 3 + 1 + 105 + 2) * MICRO, rel=0.01
    )
    if not ranged:
        assert [row.stage for row in session.ledger if row.stage != "unexplained"] == [
            "before the steps",
            "steps (a guess)",
            "after the steps",
        ]
        assert not any(finding.fix for finding in session.findings)
        assert any("a guess" in doubt for doubt in session.doubts)


def test_the_python_stack_of_a_wait_names_the_culprit(tmp_path: Path) -> None:
    trace = Synthetic()
    with trace.range("pipeline_x.py(744): __call__", "python_function"):
        for _ in range(3):
            with trace.range("nn.Module: UNet2DConditionModel_0", "python_function"):
                trace.launch("k", 90.0)
            with (
                trace.range("schedulers/scheduling_x.py(392): step", "python_function"),
                trace.range("torch/_tensor.py(10): wrapped", "python_function"),
            ):
                trace.copy_to_host(4)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    [wait] = session.syncs
    assert wait.where == ("schedulers/scheduling_x.py(392): step", "pipeline_x.py(744): __call__")
    assert wait.stage == "denoise"
    row = session.row("denoise")
    assert row is not None
    assert row.per_step is not None
    assert row.per_step.count == 3


PROGRAM = st.lists(
    st.tuples(st.sampled_from(["launch", "work", "copy", "sync"]), st.integers(1, 200)),
    min_size=1,
    max_size=60,
)


@given(PROGRAM, st.integers(1, 60), st.integers(0, 20))
def test_any_program_adds_up(
    tmp_path_factory: pytest.TempPathFactory,
    program: list[tuple[str, int]],
    overhead: int,
    latency: int,
) -> None:
    truth = Synthetic(overhead=float(overhead), latency=float(latency))
    truth.launch("first", 1.0)
    for action, amount in program:
        if action == "launch":
            truth.launch(f"k{amount % 5}", float(amount))
        elif action == "work":
            truth.work(float(amount))
        elif action == "copy":
            truth.copy_to_host(amount)
        else:
            truth.synchronize()
    read = explain(truth.write(tmp_path_factory.mktemp("t") / "t.json"))
    device = read.session.device
    assert device is not None
    assert device.busy_seconds == pytest.approx(truth.busy * MICRO, abs=1e-8)
    for cause, idle in truth.idle.items():
        assert device.idle_by_cause[cause] == pytest.approx(idle * MICRO, abs=1e-8)
    assert sum(wait.wall_seconds for wait in read.session.syncs) == pytest.approx(
        truth.idle["sync"] * MICRO, abs=1e-8
    )
    assert sum(row.seconds for row in read.session.ledger) == pytest.approx(
        read.session.wall_seconds
    )
