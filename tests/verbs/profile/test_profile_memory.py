"""Memory by stage, what grows, and what offloading hooks move: fakes where a device is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload, UserCpuOffloadHook, add_hook_to_module
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from halftime.pipeline.load import LoadedPipeline
from halftime.records import (
    MemoryReport,
    Session,
    Transfer,
    WeightMoves,
    Workload,
)
from halftime.records.stages import Place
from halftime.report.model import Table
from halftime.report.session import ledger_table, report_of
from halftime.verbs.profile import probe
from halftime.verbs.profile.device_probe import DeviceEvent, transfers
from halftime.verbs.profile.evidence import ProfileEvidence
from halftime.verbs.profile.findings import findings
from halftime.verbs.profile.growth import WORTH_SAYING, growth_per_call
from halftime.verbs.profile.moves import Move, moves_watched, summed, weight_moves
from halftime.verbs.profile.recorder import Recorder
from halftime.verbs.profile.run import ProfileSettings, measure
from planted_findings import CARD, GIB, MEMORY, MOVED, ON_CARD, PLANTED, STAGES, ids
from tiny_pipelines import PIPELINES

CPU, META = torch.device("cpu"), torch.device("meta")


def message(evidence: ProfileEvidence) -> str:
    [finding] = findings(evidence)
    return finding.message


def test_nothing_is_said_where_memory_is_well() -> None:
    assert ids(ON_CARD) == []
    assert ids(replace(ON_CARD, memory=None)) == []


# ---- what grows


@given(st.lists(st.integers(0, 2**40), max_size=6))
def test_memory_grows_where_each_call_leaves_more_than_the_one_before(readings: list[int]) -> None:
    grows = growth_per_call(readings)
    if grows:
        assert readings == sorted({*readings})
        assert grows >= WORTH_SAYING
    rising = [number * WORTH_SAYING for number, _ in enumerate(readings)]
    assert growth_per_call(rising) == (WORTH_SAYING if len(rising) >= 3 else 0)


def test_growth_names_the_stage_and_the_type() -> None:
    grown = PLANTED["memory-grows"].evidence
    text = message(grown)
    assert "2 x float32 tensor 1x4x128x128, made in denoise" in text
    assert "lasts for 1,092 more" in text
    [finding] = findings(grown)
    assert (finding.id, finding.stage) == ("memory-grows", "denoise")


# ---- what is nearly full


def test_a_device_that_is_nearly_full() -> None:
    [finding] = findings(PLANTED["memory-nearly-full"].evidence)
    assert (finding.id, finding.stage, finding.fix) == (
        "memory-nearly-full",
        "vae_decode",
        "offload",
    )
    # what a process holds of the host says nothing of it
    host = MemoryReport(measure="", stages=STAGES, of_device=False, capacity_bytes=13 * GIB)
    assert ids(replace(ON_CARD, memory=host)) == []


# ---- what moves


def test_weights_that_move_although_they_fit() -> None:
    [finding] = findings(PLANTED["weights-moved"].evidence)
    assert (finding.id, finding.stage, finding.seconds) == ("weights-moved", "denoise", 1.5)
    assert "pipeline.to(device) once" in finding.message
    assert "prefetching" not in finding.message


@pytest.mark.parametrize(
    ("how", "ahead", "free", "cure"),
    [
        ("sequential", False, 8, "enable_model_cpu_offload()"),
        ("sequential", False, 2, "use_stream=True"),
        ("group", False, 2, "use_stream=True"),
        ("group", True, 2, "in fewer bits"),
        ("model", False, 2, "in fewer bits"),
    ],
)
def test_what_helps_where_they_do_not_fit(how: str, ahead: bool, free: int, cure: str) -> None:
    small = MemoryReport(measure="", stages=STAGES, of_device=True, capacity_bytes=16 * GIB)
    facts = replace(CARD, free_bytes=free * GIB)
    move = WeightMoves(**{**as_values(MOVED), "how": how, "ahead": ahead})  # type: ignore[arg-type]
    text = message(replace(ON_CARD, memory=small, facts=facts, moves=(move,)))
    assert cure in text
    assert ("prefetching hides a part" in text) == ahead


def as_values(record: WeightMoves) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


AHEAD = WeightMoves(**{**as_values(MOVED), "how": "group", "ahead": True})  # type: ignore[arg-type]


def fetched(exposed: float) -> ProfileEvidence:
    """A call under group offload with a stream; its copies take 1.6 s."""
    copies = Transfer(
        stage="denoise", direction="HtoD", count=40, seconds=1.6, exposed_seconds=exposed
    )
    return replace(ON_CARD, moves=(AHEAD,), transfers=(copies,))


def test_moves_on_a_stream_cost_what_computing_does_not_hide() -> None:
    [finding] = findings(fetched(0.4))
    assert (finding.id, finding.seconds) == ("weights-moved", 0.4)
    assert "1.60 s that copies took on the device, 1.20 s (75.0 %) were hidden" in finding.message
    assert ids(fetched(0.001)) == []  # hidden altogether


def test_the_page_tells_what_was_hidden(planted: Session) -> None:
    evidence = fetched(0.4)
    session = msgspec.structs.replace(planted, moves=evidence.moves, transfers=evidence.transfers)
    [section] = [s for s in report_of(session).sections if s.title == "Weights that moved"]
    table = next(block for block in reversed(section.blocks) if isinstance(block, Table))
    assert [column.title for column in table.columns][-2:] == ["hidden", "not hidden"]
    assert table.rows[0][-2:] == pytest.approx((1.2, 0.4))


def test_copies_are_told_by_the_kernels_beside_them() -> None:
    """Two kernels that overlap, a gap, and copies before, beside and after them."""
    events = [
        DeviceEvent("gemm", 0, 1.0, 3.0),
        DeviceEvent("attention", 0, 2.0, 4.0),
        DeviceEvent("gemm", 0, 6.0, 7.0),
        DeviceEvent("Memcpy HtoD (Pinned -> Device)", 0, 0.0, 0.5),  # before all
        DeviceEvent("Memcpy HtoD (Pinned -> Device)", 0, 1.5, 3.5),  # hidden
        DeviceEvent("Memcpy HtoD (Pinned -> Device)", 0, 3.0, 6.5),  # 4 to 6 in the gap
        DeviceEvent("Memcpy DtoH (Device -> Pinned)", 0, 6.5, 8.0),
        DeviceEvent("Memset (Device)", 0, 4.0, 6.0),  # no kernel
        DeviceEvent("gemm", 1, 0.0, 9.0),  # another card hides nothing
    ]
    stages = [(0.0, 6.4, "denoise"), (6.4, 9.0, "vae_decode")]
    rows = {(row.stage, row.direction): row for row in transfers(events, stages)}
    assert rows.keys() == {("denoise", "HtoD"), ("vae_decode", "DtoH")}
    up, down = rows["denoise", "HtoD"], rows["vae_decode", "DtoH"]
    assert (up.count, up.seconds, up.exposed_seconds) == (3, 6.0, 2.5)
    assert (down.count, down.seconds, down.exposed_seconds) == (1, 1.5, 1.0)


INTERVALS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=8)


@given(INTERVALS, INTERVALS)
def test_what_is_hidden_and_what_is_not_are_the_whole(
    kernels: list[tuple[int, int]], copies: list[tuple[int, int]]
) -> None:
    """As a count of each unit of time says."""
    busy = {t for start, length in kernels for t in range(start, start + length)}
    exposed = sum(len({*range(s, s + length)} - busy) for s, length in copies)
    events = [DeviceEvent("gemm", 0, start, start + length) for start, length in kernels]
    events += [DeviceEvent("Memcpy HtoD", 0, start, start + length) for start, length in copies]
    rows = transfers(events, [])
    assert sum(row.exposed_seconds for row in rows) == exposed
    assert sum(row.seconds for row in rows) == sum(length for _, length in copies)


def test_moves_that_cost_little_are_not_worth_a_word() -> None:
    move = WeightMoves(**{**as_values(MOVED), "seconds": 0.1})  # type: ignore[arg-type]
    assert ids(replace(ON_CARD, moves=(move,))) == []


class Movable(nn.Linear):
    """Goes to the meta device and back, which holds no values to come back with."""

    def to(self, device: object) -> Movable:  # type: ignore[override]
        self.to_empty(device=torch.device(device))  # type: ignore[arg-type]
        return self


def ticking() -> Iterator[float]:
    yield from map(float, range(1000))


def watched(components: dict[str, nn.Module], call: object, device: torch.device) -> list[Move]:
    moves: list[Move] = []
    recorder = Recorder(SimpleNamespace(mark=lambda: None))  # type: ignore[arg-type]
    ticks = ticking()
    with (
        moves_watched(components, device, recorder, moves.append, lambda: next(ticks)),
        recorder.span(Place("denoise", "denoiser"), "unet"),
        torch.no_grad(),
    ):
        call()  # type: ignore[operator]
    return moves


def test_components_that_accelerate_moves() -> None:
    """The second takes the place of the first on the device, here the meta one."""
    first, second = Movable(4, 4), Movable(4, 8)
    before = UserCpuOffloadHook(first, hook := CpuOffload(META))
    add_hook_to_module(first, hook)
    add_hook_to_module(second, CpuOffload(META, prev_module_hook=before))

    def call() -> None:
        first(torch.ones(1, 4))
        second(torch.ones(1, 4))

    moves = watched({"text_encoder": first, "unet": second}, call, META)
    sizes = [(move.component, move.to_device, move.bytes) for move in moves]
    assert sizes == [
        ("text_encoder", True, 4 * (16 + 4)),
        ("text_encoder", False, 4 * (16 + 4)),
        ("unet", True, 4 * (32 + 8)),
    ]
    # of a move within another each has its own seconds: 3 ticks less the 1 inside
    assert [move.seconds for move in moves] == [1.0, 1.0, 2.0]
    assert {move.stage for move in moves} == {"denoise"}
    assert CpuOffload.pre_forward.__module__ == "accelerate.hooks"  # as it was


def test_layers_that_accelerate_moves() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    cpu_offload(model, execution_device=CPU)
    moves = watched({"unet": model}, lambda: model(torch.ones(1, 4)), CPU)
    assert [move.to_device for move in moves] == [True, False, True, False]
    rows = summed(moves, {"unet": "sequential"})
    assert [(row.to_device, row.count, row.bytes, row.how) for row in rows] == [
        (True, 2, 2 * 4 * (16 + 4), "sequential"),
        (False, 2, 2 * 4 * (16 + 4), "sequential"),
    ]


def test_groups_that_diffusers_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.hooks import apply_group_offloading
    from diffusers.hooks.group_offloading import ModuleGroup

    # a stand-in for the copy: on this machine both ends are one device
    def moved(group: ModuleGroup, device: torch.device) -> None:
        for module in group.modules:
            module.to_empty(device=device)

    monkeypatch.setattr(ModuleGroup, "onload_", lambda group: moved(group, CPU))
    monkeypatch.setattr(ModuleGroup, "offload_", lambda group: moved(group, META))
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    apply_group_offloading(model, onload_device=CPU, offload_device=META, offload_type="leaf_level")
    moves = watched({"transformer": model}, lambda: model(torch.ones(1, 4)), CPU)
    rows = summed(moves, {"transformer": "group"})
    assert [(row.to_device, row.count, row.bytes, row.ahead) for row in rows] == [
        (True, 2, 2 * 4 * (16 + 4), False),
        (False, 2, 2 * 4 * (16 + 4), False),
    ]


def test_what_nobody_moves_is_not_called_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halftime.verbs.profile.moves.observed_call", None)
    assert weight_moves(PIPELINES["sd15"].build(), Workload()) == ()


# ---- in the report, and in a real call


class FakeAllocator:
    """torch.cuda's statistics of memory."""

    def __init__(self) -> None:
        self.peak, self.resets = 0, 0

    def max_memory_allocated(self, device: object) -> int:
        self.peak += GIB
        return self.peak

    def memory_allocated(self, device: object) -> int:
        return GIB

    def max_memory_reserved(self, device: object) -> int:
        return 3 * GIB

    def reset_peak_memory_stats(self, device: object) -> None:
        self.resets += 1

    def get_device_properties(self, device: object) -> SimpleNamespace:
        return SimpleNamespace(total_memory=24 * GIB)


ALLOCATOR = (
    "max_memory_allocated",
    "memory_allocated",
    "max_memory_reserved",
    "reset_peak_memory_stats",
    "get_device_properties",
)


def test_the_allocators_peak_is_that_of_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = FakeAllocator()
    for name in ALLOCATOR:
        monkeypatch.setattr(torch.cuda, name, getattr(allocator, name))
    monkeypatch.setattr(probe, "device_of", lambda pipeline: torch.device("cuda"))
    pipeline = PIPELINES["sd15"].build()
    report, _ = probe.memory(pipeline, Workload(steps=1, width=32, height=32))
    assert (report.of_device, report.capacity_bytes) == (True, 24 * GIB)
    assert allocator.resets == allocator.peak // GIB
    peaks = {row.stage: row.peak_bytes or 0 for row in report.stages}
    assert peaks["encode_prompt"] < peaks["denoise"] < peaks["vae_decode"]


@pytest.fixture(scope="module")
def planted() -> Session:
    """A callback that keeps what it makes, and guidance that is always evaluated, at weight 1."""
    import diffusers

    class Always(diffusers.StableDiffusionPipeline):
        @property
        def do_classifier_free_guidance(self) -> bool:
            return True

    pipeline = PIPELINES["sd15"].build()
    pipeline.__class__ = Always
    kept: list[torch.Tensor] = []

    def keep(pipe: object, step: int, time: object, values: dict[str, object]) -> dict[str, object]:
        kept.append(torch.zeros(1 << 18))
        return values

    return measure(
        LoadedPipeline(pipeline, "planted", ()),
        Workload(steps=2, width=32, height=32, guidance=1.0),
        ProfileSettings(runs=3, warmup=0),
        further={"callback_on_step_end": keep},
    )


def test_what_a_callback_keeps_is_traced_to_it(planted: Session) -> None:
    assert planted.memory is not None
    assert planted.memory.growth_per_call >= 2 * 4 * (1 << 18)
    finding = next(finding for finding in planted.findings if finding.id == "memory-grows")
    assert finding.stage == "denoise"
    assert "2 x float32 tensor 262144" in finding.message


def test_guidance_that_changes_nothing_is_seen_in_a_real_call(planted: Session) -> None:
    finding = next(finding for finding in planted.findings if finding.id == "guidance-for-nothing")
    assert "at guidance_scale=1" in finding.message


def test_a_healthy_call_says_none_of_it() -> None:
    pipeline = PIPELINES["sd15"].build()
    work = Workload(steps=2, width=32, height=32, guidance=5.0)
    session = measure(LoadedPipeline(pipeline, "healthy", ()), work, ProfileSettings(3, 0))
    assert session.moves == ()
    assert {finding.id for finding in session.findings}.isdisjoint(
        {"memory-grows", "memory-nearly-full", "weights-moved", "guidance-for-nothing"}
    )
    titles = [column.title for column in ledger_table(session).columns]
    assert "peak memory" not in titles  # a process's is no stage's
    assert session.memory is not None
    assert "not measured on a CPU" in session.memory.measure


def test_the_ledger_has_the_peak_of_each_stage_and_the_report_what_moved(planted: Session) -> None:

    on_gpu = msgspec.structs.replace(planted, memory=MEMORY, moves=(MOVED,))
    table = ledger_table(on_gpu)
    column = [column.title for column in table.columns].index("peak memory")
    peaks = {row[0]: row[column] for row in table.rows if row[column] is not None}
    assert peaks == {"denoise": 9 * GIB, "vae_decode": 12 * GIB, "wall clock": 12 * GIB}
    titles = [section.title for section in report_of(on_gpu).sections]
    assert "Weights that moved" in titles
    assert "Weights that moved" not in [s.title for s in report_of(planted).sections]
