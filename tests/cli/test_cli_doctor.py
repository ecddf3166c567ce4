"""`halftime doctor`: planted lacks are named, and the exit code follows."""

from __future__ import annotations

import inspect
import json
import re
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

from halftime.base.extras import install
from halftime.cli import _run
from halftime.records import Environment
from halftime.records.doctor import Device, Extra
from halftime.report.console import print_report
from halftime.report.doctor import report_of
from halftime.verbs.doctor import examine as doctor
from halftime.verbs.doctor.examine import (
    RULES,
    MachineFacts,
    advice,
    base_problems,
    examine,
    extra,
    module_of,
)

MACHINE = Environment(
    system="s",
    processor="p",
    cores=2,
    memory_bytes=1,
    threads=2,
    device="cpu",
    device_name="p",
    load_average=0.0,
)


def environment(**changes: object) -> Environment:
    return msgspec.structs.replace(MACHINE, **changes)


def machine(**changes: object) -> MachineFacts:
    facts: dict[str, object] = {
        "environment": MACHINE,
        "devices": (Device(name="cpu", description="a processor", fast_dtypes=("float32",)),),
        "torch_build": "CPU only",
        "compiler": "/usr/bin/g++",
        "free_bytes": 64 * 1024**3,
        "extras": (),
    }
    return MachineFacts(**(facts | changes))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_gpu_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)


def test_a_machine_in_order_gets_no_advice() -> None:
    assert list(advice(machine())) == []


@pytest.mark.parametrize(
    ("changes", "advice_id", "command"),
    [
        (
            {"environment": environment(settings={"OMP_WAIT_POLICY": "PASSIVE"})},
            "openmp-sleeps",
            "unset OMP_WAIT_POLICY",
        ),
        ({"environment": environment(threads=1, cores=8)}, "threads", "export OMP_NUM_THREADS=8"),
        (
            {"environment": environment(settings={"CUDA_LAUNCH_BLOCKING": "1"})},
            "blocking-setting",
            "unset CUDA_LAUNCH_BLOCKING",
        ),
        (
            {"environment": environment(settings={"OMP_WAIT_POLICY": "passive"}, load_average=9.0)},
            "busy",
            "uptime",
        ),
        ({"compiler": None}, "no-compiler", "apt-get install g++"),
        ({"free_bytes": 1024**3}, "little-memory", "ps aux --sort=-rss"),
        (
            {"extras": (Extra(name="openvino", usable=False, install=""),)},
            "openvino",
            install("openvino"),
        ),
        (
            {"devices": (Device(name="cpu", description="", fast_dtypes=("float32", "bfloat16")),)},
            "bfloat16",
            "halftime profile --dtype bfloat16 --device cpu",
        ),
        (
            {"devices": (Device(name="cuda:0", description="T4", fast_dtypes=("float16",)),)},
            "float16",
            "halftime profile --dtype float16 --device cuda:0",
        ),
    ],
)
def test_each_rule(changes: dict[str, object], advice_id: str, command: str) -> None:
    assert [(item.id, item.command) for item in advice(machine(**changes))] == [
        (advice_id, command)
    ]


def test_threads_that_spin_beside_other_work() -> None:
    items = [
        (item.id, item.command)
        for item in advice(machine(environment=environment(load_average=9.0)))
    ]
    assert items == [("openmp-spins", "export OMP_WAIT_POLICY=PASSIVE"), ("busy", "uptime")]


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert [item.id for item in advice(machine())] == ["gpu-unused"]
    cuda = Device(name="cuda:0", description="", fast_dtypes=("float32",))
    assert list(advice(machine(devices=(cuda,)))) == []


def test_every_rule_is_explained() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    named = set(re.findall(r'id="([a-z0-9-]+)"', inspect.getsource(doctor)))
    assert len(named) > len(RULES)
    for name in named:
        assert f"| `{name}` |" in guide


def planted(monkeypatch: pytest.MonkeyPatch, *requirements: str) -> None:
    real = metadata.requires
    monkeypatch.setattr(
        metadata, "requires", lambda name: [*requirements] if name == "halftime" else real(name)
    )


def test_a_base_package_that_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(
        monkeypatch, "click>=8", "no-such-package>=1", "numpy>=99", "never; python_version < '3'"
    )
    missing, old = base_problems()
    assert missing == "no-such-package is not installed"
    assert old.startswith("numpy ")
    assert old.endswith(">=99 is needed")


def test_an_extra_that_is_installed_and_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(
        monkeypatch,
        "rich>=1; extra == 'fine'",
        "jinja2>=1; extra == 'broken'",
        "halftime[fine,broken]; extra == 'both'",
    )

    def failing(name: str) -> None:
        if name == "jinja2":
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "import_quietly", failing)
    assert extra("fine").usable
    for name in ("broken", "both"):
        assert not extra(name).usable
        assert "operator torchvision::nms does not exist" in extra(name).missing[0]


def test_distributions_and_their_modules() -> None:
    assert module_of("pytorch-msssim") == "pytorch_msssim"
    assert module_of("Jinja2") == "jinja2"
    assert module_of("Pillow") == "PIL"
    assert module_of("no-such-package") is None


def test_a_torch_that_does_not_import_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> None:
        raise OSError("libtorch_cpu.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "devices", failing)
    monkeypatch.setattr(doctor, "extra_names", lambda: [])
    report = examine()
    assert not report.healthy
    assert report.problems == (
        "torch does not work: OSError: libtorch_cpu.so: cannot open shared object file",
    )
    print_report(report_of(report))


@pytest.mark.slow
def test_here_and_now(capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(["doctor", "--json"], debug=False) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["healthy"]
    assert report["devices"][0]["name"] == "cpu"
    assert report["environment"]["threads"] >= 1
    assert {extra["name"] for extra in report["extras"]} >= {
        "gateway",
        "openvino",
        "onnx",
        "verify",
        "test",
    }
    assert all(extra["usable"] for extra in report["extras"] if extra["name"] == "gateway")
