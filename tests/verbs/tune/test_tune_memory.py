"""`tune --memory`: what a call takes is measured for every plan, what does not fit is never kept,
and a pipeline that does not fit is first made to fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from types import SimpleNamespace

import diffusers
import pytest
import torch
from msgspec.structs import replace

from fix_cells import changes, fingerprint
from halftime.base.errors import BadInput
from halftime.base.progress import silent
from halftime.fix import FIXES, offload
from halftime.pipeline.load import LoadedPipeline
from halftime.records import Workload
from halftime.records.recipe import Choice
from halftime.report.tune import report_of
from halftime.verbs.tune import bench
from halftime.verbs.tune import run as tune_run
from halftime.verbs.tune.bench import Bench
from halftime.verbs.tune.candidates import combine
from halftime.verbs.tune.decide import Choices
from halftime.verbs.tune.fitting import Fitting, fit, plan_words
from halftime.verbs.tune.memory import (
    AllocatorMeter,
    MemoryLimit,
    TensorMeter,
    limit_on,
    memory_of,
    weight_bytes,
)
from halftime.verbs.tune.options import Options
from halftime.verbs.tune.run import tuned
from halftime.verbs.verify.render import prompt_set
from quick_tuning import tune_quickly
from tiny_pipelines import PIPELINES

CPU = torch.device("cpu")
MIB = 2**20


# ---- what is measured


def test_new_tensors_are_counted_while_they_live_and_views_are_not() -> None:
    weights = torch.ones(MIB)  # was there before

    def work() -> None:
        first = weights * 2
        del first
        second = weights + 1
        third = second.view(2, -1).t() + 0.0  # a view, and one more
        assert third.shape == (MIB // 2, 2)
        weights.mul_(1.0)

    assert TensorMeter().peak(work) == 2 * 4 * MIB
    assert TensorMeter().peak(lambda: weights.view(-1)) == 0


def test_an_accelerator_s_allocator_says_the_peak_above_what_was_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = SimpleNamespace(bytes=5 * MIB, peak=9 * MIB)

    def reset(device: torch.device) -> None:
        now.peak = now.bytes

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: now.bytes)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: now.peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)

    def work() -> None:
        now.peak = 7 * MIB

    assert AllocatorMeter(torch.device("cuda:0")).peak(work) == 2 * MIB


def test_weights_count_once_and_on_their_device_alone() -> None:
    shared = torch.nn.Linear(8, 8, bias=False)
    pipeline = SimpleNamespace(components={"transformer": torch.nn.Sequential(shared, shared)})
    assert weight_bytes(pipeline, "cpu") == 8 * 8 * 4  # type: ignore[arg-type]
    assert weight_bytes(pipeline, "cuda") == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "meter"), [("cpu", TensorMeter), ("cuda:1", AllocatorMeter), ("xpu", AllocatorMeter)]
)
def test_each_device_has_its_measure(device: str, meter: type) -> None:
    assert isinstance(limit_on(torch.device(device), 1).meter, meter)


def test_a_device_that_does_not_say_its_peak_is_refused() -> None:
    with pytest.raises(BadInput, match="allocator of mps does not say"):
        limit_on(torch.device("mps"), 1)


@pytest.mark.parametrize("words", ["12", "much", "0GB", "-1GB"])
def test_what_is_no_amount_of_memory_is_refused(words: str) -> None:
    with pytest.raises(BadInput, match="for example 12GB"):
        memory_of(words)


def test_on_a_cpu_what_torch_does_not_see_cannot_be_judged() -> None:
    compiled = (Choice(name="denoiser-compile"),)
    assert "denoiser-compile takes is not seen" in limit_on(CPU, 1).unmeasurable(compiled)
    assert limit_on(torch.device("cuda:0"), 1).unmeasurable(compiled) == ""
    assert limit_on(CPU, 1).unmeasurable((Choice(name="vae-dtype"),)) == ""


# ---- what makes it fit


MODEL, GROUP, LEAF = (
    Choice(name="offload", settings={"kind": k}) for k in ("model", "group", "leaf")
)
SLICING, TILING = Choice(name="vae-slicing"), Choice(name="vae-tiling")
CARD = torch.device("cpu", 0)  # another device than the host, for a machine without one


Peaks = Mapping[str, tuple[int, float]]  # plan -> bytes, and seconds of a call


def name_of(plan: Choices) -> str:
    """'', 'model' or 'slicing+tiling'."""
    words = (str(choice.settings.get("kind", choice.name)) for choice in plan)
    return "+".join(word.removeprefix("vae-") for word in words)


class PlayedBench(Bench):
    """Peaks and seconds of plans from a table; nothing is put on."""

    def play(self, peaks: Peaks) -> PlayedBench:
        self.peaks = peaks
        self.asked: list[str] = []
        return self

    def at(self, plan: Choices):  # type: ignore[no-untyped-def]
        name = name_of(plan)
        self.asked.append(name)
        if name not in self.peaks:
            raise torch.OutOfMemoryError("CUDA out of memory")
        peak, seconds = self.peaks[name]
        return SimpleNamespace(peak_bytes=peak, call_seconds=seconds)


@pytest.fixture
def with_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setattr(offload, "accelerator", lambda own: CARD)


def played(peaks: Peaks) -> PlayedBench:
    return PlayedBench(PIPELINES["flux"].build(), Workload(), ()).play(peaks)


def start(
    peaks: Peaks,
    limit: int,
    *,
    pictures: int = 1,
    approximate: bool = False,
    before: Choices | None = None,
) -> tuple[str, list[str]]:
    """The plan that `fit` starts from, with weights of no account, and what it asked for."""
    bench = played(peaks)
    memory = MemoryLimit(limit, torch.device("cuda:0"), TensorMeter())
    chosen, _ = fit(bench, memory, pictures=pictures, approximate=approximate, before=before)
    return name_of(chosen.plan), bench.asked


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights fit, and moving them to the card does nothing."""
    monkeypatch.setattr("halftime.verbs.tune.fitting.weight_bytes", lambda *_: 0)
    monkeypatch.setattr(diffusers.FluxPipeline, "to", lambda self, *_: self)


@pytest.mark.usefixtures("with_a_card", "large")
def test_what_fits_as_it_is_stays_as_it_is() -> None:
    assert start({"": (90, 1.0)}, 100) == ("", [""])


@pytest.mark.usefixtures("with_a_card", "large")
def test_of_the_ways_that_fit_the_fastest_is_taken() -> None:
    """Groups with a stream of their own may hide what whole components wait for."""
    peaks = {
        "": (240, 1.0),
        "model": (95, 3.0),
        "group": (40, 2.0),
        "leaf": (20, 9.0),
    }
    assert start(peaks, 100)[0] == "group"
    assert start(peaks, 30)[0] == "leaf"
    assert start(peaks, 100, before=(MODEL,))[0] == "model"  # a run that goes on


@pytest.mark.usefixtures("with_a_card", "large")
def test_decoding_in_parts_comes_before_moving_weights() -> None:
    peaks = {"": (140, 1.0), "slicing": (110, 1.1), "slicing+tiling": (80, 1.2)}
    plan, asked = start(peaks, 100, pictures=4, approximate=True)
    assert plan == "slicing+tiling"
    assert asked == ["", "slicing", "slicing+tiling"]
    # tiles draw another picture, and one picture has no slices
    peaks |= {"model": (60, 4.0)}
    assert start(peaks, 100)[0] == "model"


@pytest.mark.usefixtures("with_a_card", "large")
def test_out_of_memory_is_a_plan_that_does_not_fit() -> None:
    plan, asked = start({"leaf": (20, 9.0)}, 100)
    assert plan == "leaf"
    assert asked == ["", "model", "group", "leaf"]


@pytest.mark.usefixtures("with_a_card", "large")
def test_where_nothing_fits_the_smallest_peak_is_said() -> None:
    peaks = {"": (240 * MIB, 1.0), "group": (40 * MIB, 2.0), "leaf": (20 * MIB, 9.0)}
    words = r"nothing fits into --memory 10\.0 MiB: the smallest peak is 20\.0 MiB, of offload"
    with pytest.raises(BadInput, match=words):
        start(peaks, 10 * MIB)


def test_weights_that_are_larger_than_the_limit_are_not_even_moved() -> None:
    pipeline = PIPELINES["flux"].build()
    bench = PlayedBench(pipeline, Workload(), ()).play({})
    memory = MemoryLimit(1000, torch.device("cuda:0"), TensorMeter())
    with pytest.raises(BadInput, match="its weights alone take"):
        fit(bench, memory, pictures=1, approximate=False)
    assert bench.asked == []


def test_the_ladder_tells_what_came_of_each_way() -> None:
    look = Fitting((GROUP,), 40, 2.0, "")
    rung = look.rung(chosen=True)
    assert rung is not None
    assert (rung.fix, rung.kept, rung.why) == ("offload", True, "fits: takes 40 B, 2.00 s a call")
    assert Fitting((), 240, 1.0, "takes too much").rung(chosen=False) is None
    assert plan_words((GROUP, TILING)) == "offload (kind: group) + vae-tiling"


# ---- the bench


WORKLOAD = Workload(steps=1, width=64, height=64, device="cpu")


@contextmanager
def _greedy(pipeline: object, settings: Mapping[str, object]) -> Iterator[None]:
    """A fix that is fast, and holds 64 MiB."""
    keep = torch.ones(16 * MIB)
    yield
    del keep


GREEDY = Choice(name="vae-channels-last")
QUIET = Choice(name="progress-bar-off")


@pytest.fixture
def greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    fix = replace(FIXES[GREEDY.name], apply=_greedy, applies=lambda *_: None)
    monkeypatch.setitem(FIXES, GREEDY.name, fix)
    monkeypatch.setattr(bench, "check_levels", lambda *_, **__: None)


@pytest.mark.usefixtures("greedy")
def test_a_plan_that_does_not_fit_is_not_timed() -> None:
    pipeline = PIPELINES["flux"].build()
    limited = Bench(pipeline, WORKLOAD, prompt_set(WORKLOAD, 4), memory=limit_on(CPU, 48 * MIB))
    with closing(limited):
        trial = limited.trial((), (GREEDY,), silent)
        assert "--memory allows 48.0 MiB" in trial.failure
        assert (trial.peak_bytes or 0) > 64 * MIB
        assert trial.candidate == ()
        fitting = limited.trial((), (QUIET,), silent)
        assert fitting.failure == ""
        assert weight_bytes(pipeline, "cpu") < (fitting.peak_bytes or 0) <= 48 * MIB
        compiled = limited.trial((), (Choice(name="denoiser-compile"),), silent)
        assert "not seen by torch" in compiled.failure
        limited.start = (MODEL,)
        without = limited.trial((MODEL,), (QUIET,), silent)
        assert without.failure == "excludes offload, without which it does not fit"


def test_moving_weights_in_groups_gives_way_to_whole_components() -> None:
    """What changes weights needs whole components; whether it fits then is measured."""
    plan, changed = combine((GROUP,), Choice(name="denoiser-dtype"))
    assert plan == (MODEL, Choice(name="denoiser-dtype"))
    assert changed == (GROUP,)


# ---- a whole run, on a tiny transformer


@pytest.mark.slow
@pytest.mark.usefixtures("greedy", "with_a_card")
def test_a_pipeline_is_made_to_fit_and_then_made_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card that is played; what a plan takes is told by its fixes."""
    tune_quickly(monkeypatch, GREEDY.name, QUIET.name)
    monkeypatch.setattr("halftime.verbs.tune.search.pays", lambda trial: not trial.failure)
    started: list[Choices] = []
    put_on = Bench._start

    def noted(self: Bench, plan: Choices) -> bench.LivePlan:
        started.append(plan)
        return put_on(self, plan)

    class Card:
        def peak(self, work: Callable[[], object]) -> int:
            work()
            names = {choice.name for choice in started[-1]}
            return (40 if "offload" in names else 200) * MIB + 90 * MIB * (GREEDY.name in names)

    monkeypatch.setattr(Bench, "_start", noted)
    monkeypatch.setattr(tune_run, "limit_on", lambda _, limit: MemoryLimit(limit, CARD, Card()))
    loaded = LoadedPipeline(PIPELINES["flux"].build(), "flux", ())
    before = fingerprint(loaded.pipeline)
    tuning = tuned(loaded, WORKLOAD, Options(budget=600.0, prompts=2, memory=100 * MIB)).tuning
    assert changes(before, fingerprint(loaded.pipeline)) == []
    rungs = {rung.fix: rung for rung in tuning.ladder}
    assert not rungs[GREEDY.name].kept
    assert "--memory allows 100 MiB" in rungs[GREEDY.name].why
    assert rungs[QUIET.name].observed is not None
    memory = tuning.memory
    assert memory is not None
    assert [choice.name for choice in memory.start] == ["offload"]
    assert (memory.as_it_is or 0) > 200 * MIB
    assert (memory.tuned or 0) <= 100 * MIB
    assert memory.start[0] in tuning.recipe.fixes
    assert all("offload" in str(plan) for plan in started[1:])
    assert "does not fit into 100 MiB" in tuning.notes[0]
    assert [section.title for section in report_of(tuning).sections].count("Memory") == 1
