"""What Linux has and Windows or macOS lacks, tried by taking it away."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from halftime.base import environment, source
from halftime.base.errors import MissingExtra
from halftime.pipeline.device import this_environment
from halftime.testing.proxies import PlantedProxy, _serve
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


def test_the_proxy_ends_on_sigterm_where_loops_take_no_signal_handlers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.SelectorEventLoop, "add_signal_handler", refuse)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)

    async def end_once_served() -> None:
        while signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:  # until the proxy's own is there
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    async def served() -> None:
        end = asyncio.create_task(end_once_served())
        await asyncio.wait_for(_serve(PlantedProxy("http://127.0.0.1:9", "none"), 0), 60)
        await end

    try:
        asyncio.run(served())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "held 0.0" in capsys.readouterr().out
