"""Which device is taken where nobody names one, and what is asked of each kind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from halftime.base.errors import BadInput, UnknownDevice
from halftime.pipeline import device as devices_of
from halftime.pipeline.device import (
    accelerator,
    available_devices,
    checked_device,
    default_device,
    devices,
    fastest_dtype,
    synchronize,
    this_environment,
)
from halftime.pipeline.load import load
from halftime.records import Workload
from tiny_pipelines import PIPELINES


def machine_with(monkeypatch: pytest.MonkeyPatch, *kinds: str) -> list[str]:
    """A torch that has these GPUs; returns what it is asked to wait for."""
    waits: list[str] = []
    for kind in ("cuda", "xpu"):
        module = SimpleNamespace(
            is_available=lambda kind=kind: kind in kinds,
            device_count=lambda: 2,
            synchronize=lambda device: waits.append(str(device)),
            get_device_properties=lambda device: SimpleNamespace(
                name=f"GPU {device}", total_memory=8, major=8, minor=0
            ),
            mem_get_info=lambda device: (4, 8),
        )
        monkeypatch.setattr(torch, kind, module)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)
    mps = SimpleNamespace(synchronize=lambda: waits.append("mps"), recommended_max_memory=lambda: 9)
    monkeypatch.setattr(torch, "mps", mps)
    return waits


@pytest.mark.parametrize(
    ("kinds", "best"),
    [
        (("cuda", "xpu", "mps"), "cuda:0"),
        (("xpu", "mps"), "xpu:0"),
        (("mps",), "mps"),
        ((), "cpu"),
    ],
)
def test_the_best_device_is_the_default(
    kinds: tuple[str, ...], best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with(monkeypatch, *kinds)
    assert str(default_device()) == best
    assert available_devices()[-1] == "cpu"


def test_each_kind_is_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = machine_with(monkeypatch, "cuda", "xpu", "mps")
    names = ["cuda", "cuda:1", "xpu", "mps", "mps:0", "cpu"]
    chosen = [str(checked_device(name)) for name in names]
    assert chosen == ["cuda:0", "cuda:1", "xpu:0", "mps", "mps", "cpu"]
    for name in chosen:
        synchronize(torch.device(name))
    assert waits == ["cuda:0", "cuda:1", "xpu:0", "mps", "mps"]
    with pytest.raises(UnknownDevice, match="Available: cpu, cuda:0, cuda:1, xpu:0, xpu:1, mps"):
        checked_device("xpu:2")


def test_an_environment_names_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, "xpu", "mps")
    monkeypatch.setattr(devices_of, "processor_name", lambda: "M9")
    intel, apple = this_environment("xpu:1"), this_environment("mps")
    assert (intel.device_name, intel.device_memory_bytes) == ("GPU xpu:1", 8)
    assert (apple.device_name, apple.device_memory_bytes) == ("GPU of the M9", 9)
    assert accelerator(torch.device("cpu")) is None
    assert [device.name for device in devices()] == ["cpu", "xpu:0", "xpu:1", "mps"]


class Moved:
    """A pipeline that remembers where it was sent."""

    components: ClassVar[dict[str, object]] = {}

    def __init__(self) -> None:
        self.goals: list[tuple[object, ...]] = []

    def __call__(self) -> None: ...

    def to(self, *goals: object) -> None:
        self.goals.append(goals)


class Fixed:
    components: ClassVar[dict[str, object]] = {}

    def __call__(self) -> None: ...


def test_what_a_function_returned_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, "cuda")
    assert load(f"{__name__}:Moved", Workload()).pipeline.goals == []
    load(f"{__name__}:Fixed", Workload())
    moved = load(f"{__name__}:Moved", Workload(device="cuda:1", dtype="float16")).pipeline
    assert moved.goals == [(torch.device("cuda:1"), torch.float16)]
    with pytest.raises(BadInput, match=r"Fixed has no to\(\), so it stays on its device"):
        load(f"{__name__}:Fixed", Workload(device="cpu"))


def test_a_folder_goes_to_the_best_device(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    PIPELINES["sd15"].build().save_pretrained(tmp_path / "model")
    goals: list[object] = []
    monkeypatch.setattr("halftime.pipeline.load.default_device", lambda: torch.device("meta"))
    monkeypatch.setattr(
        "diffusers.DiffusionPipeline.to", lambda pipeline, *goal: goals.extend(goal)
    )
    load(str(tmp_path / "model"), Workload())
    assert goals == [torch.device("meta")]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (42, "this is int; a diffusers pipeline is needed"),
        (torch.nn.Linear(1, 1), "this is Linear, a part of a pipeline at most"),
        (Moved, "this is the class Moved, and no instance of it"),
        ({"unet": 1}, "this is dict"),
    ],
)
def test_what_is_no_pipeline_is_refused_in_a_sentence(value: object, words: str) -> None:
    import halftime
    from halftime.base.errors import UnknownModel

    for verb in (halftime.profile, halftime.audit, halftime.tune):
        with pytest.raises(UnknownModel, match=words):
            verb(value)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("card", "capability", "dtype"),
    [
        ("H200", (9, 0), "bfloat16"),
        ("A10G", (8, 6), "bfloat16"),
        ("T4", (7, 5), "float16"),
        ("V100", (7, 0), "float16"),
        ("P40", (6, 1), "float32"),
        ("P100", (6, 0), "float16"),
        ("M60", (5, 2), "float32"),
    ],
)
def test_the_fastest_dtype_of_a_card_is_one_that_does_not_overflow(
    card: str, capability: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda", 0)
    assert fastest_dtype(device) == dtype
    safe = "float32" if dtype == "float16" else dtype
    assert fastest_dtype(device, overflows=True) == safe


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [("gfx942:sramecc+", "bfloat16"), ("gfx906", "float16"), ("gfx1030", "float16")],
)
def test_amds_cards_are_told_apart_by_their_architecture(
    architecture: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(gcnArchName=architecture)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert fastest_dtype(torch.device("cuda", 0)) == dtype


def test_the_host_says_nothing_of_a_gpu() -> None:
    assert fastest_dtype(torch.device("mps")) == "float16"
    assert fastest_dtype(torch.device("cpu")) == "bfloat16"
