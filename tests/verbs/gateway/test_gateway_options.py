"""Options that cannot mean anything are refused in a sentence, before anything is measured."""

from __future__ import annotations

import asyncio
import socket

import click
import pytest
from click.testing import CliRunner

from gateway_servers import mock_and_proxy, shorten_calibration
from gateway_synthetic import load, result
from halftime.base.errors import BadInput
from halftime.cli import _run
from halftime.cli.gateway import command
from halftime.report.gateway import report_of
from halftime.report.markdown import markdown
from halftime.verbs.gateway.mock import Behaviour, serve

NOWHERE = ("--direct", "http://127.0.0.1:9/v1")


def refusal(*words: str) -> str:
    """The error message for these arguments, whose exit code is 2."""
    error = CliRunner().invoke(command, words, standalone_mode=False).exception
    assert isinstance(error, BadInput | click.ClickException), error
    assert getattr(error, "exit_code", 2) == 2
    return error.format_message() if isinstance(error, click.ClickException) else str(error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--requests 0", "x>=1"),
        ("--requests -1", "x>=1"),
        ("--concurrency -2", "x>=0"),
        ("--max-background -1", "x>=0"),
        ("--duration 0", "--duration '0' is not above zero"),
        ("--timeout 0s", "--timeout '0s' is not above zero"),
        ("--size 0", "'0' is not a size"),
        ("--through-key-env X", "--through-key-env needs --through URL"),
        ("--through-header a:b", "--through-header needs --through URL"),
        ("--budget 5ms", "--budget needs --through URL"),
        ("--session x.json", "--session needs --through URL"),
        ("--picture-url http://x/a.png", "the payload is 'chat'"),
        ("--through http://127.0.0.1:9 --budget soon", "'soon' is not a duration"),
    ],
)
def test_meaningless_options_are_refused(words: str, message: str) -> None:
    assert message in refusal(*NOWHERE, *words.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--error-rate 2", "0<=x<=1"),
        ("--error-rate -0.1", "0<=x<=1"),
        ("--chunks 0", "x>=1"),
        ("--size 0", "'0' is not a size"),
        ("--port 70000", "0<=x<=65535"),
    ],
)
def test_meaningless_options_of_the_mock_are_refused(words: str, message: str) -> None:
    assert message in refusal("mock", *words.split())


def test_a_busy_port_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert _run(["gateway", "mock", "--port", str(port)], debug=False) == 2
    error = capfd.readouterr().err
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in error
    assert "--port (0 takes a free one)" in error
    assert "Errno" not in error


def test_an_address_of_another_machine_is_one_sentence() -> None:
    with pytest.raises(BadInput, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        asyncio.run(serve(Behaviour(), "192.0.2.1", 0, lambda port: None))


def test_one_endpoint_alone_has_no_overhead_to_speak_of(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calibration(monkeypatch)
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, _):
        words = ["--direct", direct, "--requests", "5", "--concurrency", "0"]
        out = CliRunner().invoke(command, words, standalone_mode=False).output
    assert "by itself" in out
    assert "Overhead" not in out
    assert "paired" not in out
    assert "Overhead known from the mock" in markdown(report_of(result(load())))
