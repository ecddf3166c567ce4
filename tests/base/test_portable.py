"""What Linux has and Windows or macOS lacks, tried by taking it away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halftime.base import environment, source
from halftime.base.errors import MissingExtra
from halftime.pipeline.device import this_environment
from halftime.verbs.gateway import extra


def test_without_load_average_and_affinity_the_environment_is_still_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "getloadavg")
    monkeypatch.delattr(os, "sched_getaffinity")
    here = this_environment()
    assert here.cores >= 1
    assert here.load_average is not None


def test_without_proc_the_processor_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert environment.processor_name()
    assert environment.instructions() == []


@pytest.mark.parametrize(
    ("file", "installed", "short"),
    [
        (r"C:\py\Lib\site-packages\diffusers\utils\x.py", True, "diffusers/utils/x.py"),
        ("/usr/lib/python3/dist-packages/torch/nn.py", True, "torch/nn.py"),
        (r"C:\work\src\mine\pipe.py", False, "mine/pipe.py"),
    ],
)
def test_files_are_known_by_either_slash(file: str, installed: bool, short: str) -> None:
    assert source.is_installed(file) is installed
    assert source.short(file) == short


async def answer() -> int:
    return 42


def test_on_windows_the_gateway_runs_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(MissingExtra, match="uvloop"):
        extra.run_async(answer())
    monkeypatch.setattr(sys, "platform", "win32")
    assert extra.run_async(answer()) == 42


# In its own process: a signal that arrives while nobody handles it ends whoever runs the tests.
PROXY = """
import asyncio
def refuse(*_):
    raise NotImplementedError
asyncio.SelectorEventLoop.add_signal_handler = refuse
from halftime.testing.proxies import PlantedProxy, _serve
async def served():
    await _serve(PlantedProxy("http://127.0.0.1:9", "none"), 0)
asyncio.run(served())
"""


def test_the_proxy_ends_on_sigterm_where_loops_take_no_signal_handlers() -> None:
    child = subprocess.Popen([sys.executable, "-c", PROXY], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("proxy on http://127.0.0.1:")
        _wait_until_caught(child.pid, signal.SIGTERM)
        child.send_signal(signal.SIGTERM)
        assert "held 0.0" in child.communicate(timeout=60)[0]
        assert child.returncode == 0
    finally:
        child.kill()
        child.wait()


def _wait_until_caught(pid: int, number: signal.Signals) -> None:
    """Until the process has a handler of its own for the signal."""
    for _ in range(6000):
        status = Path(f"/proc/{pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught >> (number - 1) & 1:
            return
        time.sleep(0.01)
    raise AssertionError(f"no handler for {number.name} in a minute")
