"""`halftime serve`: options, refusals, and a whole run of the real thing."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import msgspec
import pytest
from click.testing import CliRunner
from openai import OpenAI

from halftime.base.errors import BadInput, BadWorkload
from halftime.cli import _run
from halftime.cli import halftime as group
from halftime.cli.serve import (
    _engine_settings,
    _http_settings,
    _name_of,
    _RayOptions,
    _ServeScreen,
    command,
    parse_sizes,
    parse_steps,
)
from halftime.records import Workload
from halftime.records import workload as workload_records
from halftime.records.serve import EngineStatus
from halftime.verbs.serve import worker
from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.source import source_of
from halftime.verbs.serve.wire import Begin, CannotServe, Channel, frame
from serve_fake import CERTIFICATE, http, wait_until
from served import SOURCE, served


def test_lists() -> None:
    assert parse_sizes("512,768x512") == ((512, 512), (768, 512))
    assert parse_sizes(None) == ()
    assert parse_steps("4, 30") == (4, 30)
    for text in ("", "4,", "0", "4.5", "many"):
        with pytest.raises(BadInput, match="--steps"):
            parse_steps(text)
    with pytest.raises(BadWorkload):
        parse_sizes("512x")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (None, "emoji-xl"),
        ("bundled", "emoji-xl"),
        ("owner/model", "owner/model"),
        ("a.b:make", "a.b:make"),
        ("nowhere.safetensors", "nowhere.safetensors"),
    ],
)
def test_names(model: str | None, name: str) -> None:
    assert _name_of(model) == name


def test_a_folder_is_named_by_its_last_part(tmp_path) -> None:
    assert _name_of(f"{tmp_path}/") == tmp_path.name
    (tmp_path / "dream_8.1.safetensors").touch()
    assert _name_of(f"{tmp_path}/dream_8.1.safetensors") == "dream_8.1"


def test_options_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    context = command.make_context(
        "serve", ["m", "--sizes", "64", "--queue", "3", "--deadline", "2s", "--off-list", "refuse"]
    )
    values = {name: value for name, value in context.params.items() if name not in OURS}
    engine = _engine_settings("m", "2s", values)
    assert (
        engine.model,
        engine.sizes,
        engine.queue_limit,
        engine.deadline_seconds,
        engine.off_list,
    ) == (
        "m",
        ((64, 64),),
        3,
        2.0,
        "refuse",
    )
    monkeypatch.setenv("HALFTIME_API_KEY", "a, b,")
    settings = _http_settings("name", "2s", "1m", 3)
    assert (
        settings.api_keys,
        settings.deadline,
        settings.drain_seconds,
        settings.most_pictures,
    ) == (
        ("a", "b"),
        2.0,
        60.0,
        3,
    )


def test_a_model_is_loaded_in_all_the_ways_that_profile_knows() -> None:
    """Each option arrives in the settings that a worker is sent, and in the workload it loads."""
    words = ["m.safetensors", "--config", "folder", "--lora", "a.safetensors:0.5", "--lora", "b"]
    words += ["--variant", "fp16", "--revision", "main", "--custom-pipeline", "mine.py"]
    words += ["--dtype", "bf16"]
    context = command.make_context("serve", words)
    values = {name: value for name, value in context.params.items() if name not in OURS}
    sent = msgspec.msgpack.encode(_engine_settings("m.safetensors", "2s", values))
    assert source_of(msgspec.msgpack.decode(sent, type=EngineSettings)) == Workload(
        dtype="bfloat16",
        config="folder",
        lora=("a.safetensors:0.5", "b"),
        variant="fp16",
        revision="main",
        custom_pipeline="mine.py",
    )


def test_every_verb_that_loads_a_model_takes_how_it_is_loaded() -> None:
    for name in ("profile", "audit", "tune", "verify", "replay", "serve"):
        verb = group.get_command(click.Context(group), name)
        assert verb is not None
        assert {*workload_records.SOURCE} <= {parameter.name for parameter in verb.params}, name


OURS = {"model", "host", "port", "name", "deadline", "drain", "ray", "replicas", "quiet"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--queue", "0"),
        ("--queue", "-5"),
        ("--max-batch", "0"),
        ("--deadline", "0"),
        ("--threads", "0"),
        ("--port", "70000"),
        ("--replicas", "3"),
        ("--host", "300.1.1.1"),
        ("--dtype", "int7"),
    ],
)
def test_what_makes_no_sense_is_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["serve", option, value], debug=False) == 2
    captured = capsys.readouterr()
    assert value in captured.err
    assert "Unknown error" not in captured.err
    assert captured.out == ""


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert _run(["serve", "--port", str(port)], debug=False) == 2
    assert f"port {port}: Address already in use" in capsys.readouterr().err


def test_help_says_what_is_where() -> None:
    help_text = CliRunner().invoke(command, ["--help"]).output
    for word in (
        "/readyz",
        "/metrics",
        "HALFTIME_API_KEY",
        "HALFTIME_PROFILE_TOKEN",
        "SIGTERM",
        "--off-list",
    ):
        assert word in help_text


class Ended(Exception):
    """In place of the signal that ends the server."""


def test_the_selftest_runs_in_a_process_of_its_own_and_ends_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its exit code becomes the server's, and the key reaches it in the environment."""
    started_with: list[tuple] = []

    class Child:
        async def wait(self) -> int:
            return 1

    async def start(*words: str, env: dict[str, str]) -> Child:
        started_with.append((words, env["HALFTIME_API_KEY"]))
        return Child()

    def end(number: int) -> None:
        assert number == signal.SIGTERM
        raise Ended

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setattr(signal, "raise_signal", end)
    screen = _ServeScreen(None, selftest=True, address="http://127.0.0.1:1", key="secret")
    engine = SimpleNamespace(status=EngineStatus(state="ready", certificate=CERTIFICATE))
    with pytest.raises(Ended):
        asyncio.run(screen.watch(engine))  # type: ignore[arg-type]
    ((words, key),) = started_with
    assert words[1:] == ("-P", "-m", "halftime.verbs.serve.selftest", "http://127.0.0.1:1")
    assert (key, screen.selftest_code) == ("secret", 1)


def test_the_log_for_collectors_has_alarms_too(caplog: pytest.LogCaptureFixture) -> None:
    _ServeScreen(None).say("alarm: it hangs", "bold red", logging.ERROR)
    assert [record.message for record in caplog.records] == ["alarm: it hangs"]


@pytest.mark.parametrize("words", [["--max-replicas", "1"], ["--replica-gpus", "0.5"]])
def test_what_goes_with_ray_alone(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["serve", *words], debug=False) == 2
    assert f"{words[0]} {words[1]} goes with --ray" in capsys.readouterr().err


def test_bounds_of_the_replicas() -> None:
    assert _RayOptions(3).bounds == {"replicas": 3}
    assert _RayOptions(2, 8).bounds == {"replicas": 2, "least": 2, "most": 8}
    with pytest.raises(BadInput, match="--max-replicas is 2"):
        _RayOptions(3, 2).bounds  # noqa: B018


@pytest.fixture
def started() -> Iterator[tuple[subprocess.Popen[str], str]]:
    with served("--steps", "2,30", HALFTIME_PROFILE_TOKEN="token") as process:
        yield process


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_start_to_sigterm_with_the_official_client(started: tuple) -> None:
    child, address = started
    assert http.get(f"{address}/healthz").status_code == 200
    wait_until(lambda: http.get(f"{address}/readyz").status_code == 200, 240)
    client = OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0)
    arguments = {
        "model": "emoji-xl",
        "prompt": "a flat icon of a kite",
        "extra_body": {"seed": 3, "steps": 30},
    }
    events = list(client.images.generate(**arguments, stream=True, partial_images=2))
    kinds = [event.type.split(".")[1] for event in events]
    # A preview that is not decoded when the next one is due, or the final done, is left out.
    assert kinds in (
        ["partial_image", "completed"],
        ["partial_image", "partial_image", "completed"],
    )
    plain = client.images.generate(**arguments)
    assert plain.data[0].b64_json == events[-1].b64_json
    assert {"encode_prompt", "denoise", "vae_decode"} <= set(
        plain.usage.halftime["pictures"][0]["stages"]
    )
    headers = {"authorization": "Bearer token"}
    assert http.post(f"{address}/profile/start", json={}, headers=headers).status_code == 200
    client.images.generate(model="emoji-xl", prompt="p", extra_body={"steps": 2})
    (session,) = http.post(f"{address}/profile/stop", headers=headers).json()["sessions"]
    assert session["schema"]
    certificate = json.loads(http.get(f"{address}/readyz").content)["certificate"]
    assert certificate["graphs_second"] == certificate["graphs_first"]
    assert certificate["cold_start"]["ready_seconds"] > 0
    child.send_signal(signal.SIGTERM)
    assert child.wait(120) == 0
    assert "ready in" in child.stderr.read()


@pytest.mark.parametrize(
    ("words", "reason"),
    [(("no/such/folder",), "'no/such/folder' is not a model"), (("--sizes", "33"), "33")],
)
def test_why_a_worker_can_never_serve_is_what_it_says_and_ends_with(
    words: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker of such a server, in this process."""
    context = command.make_context("serve", [*words, "--threads", "1"])
    values = {name: value for name, value in context.params.items() if name not in OURS}
    settings = _engine_settings(context.params["model"], "2s", values)
    channel = Channel(io.BytesIO(frame(Begin(settings=settings, started=0.0))), io.BytesIO())
    said: list[object] = []
    monkeypatch.setattr(channel, "listen", lambda: None)
    monkeypatch.setattr(channel, "send", said.append)
    monkeypatch.setattr(Channel, "over_standard_streams", lambda: channel)
    assert worker.main() == 1
    assert isinstance(said[-1], CannotServe)
    assert reason in said[-1].message


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_can_never_be_ready_ends_by_itself(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        'def without_weights():\n    raise ValueError("my weights are missing")\n'
    )
    path = f"{SOURCE}{os.pathsep}{tmp_path}"
    with served("mine:without_weights", PYTHONPATH=path) as (process, _):
        assert process.wait(240) == 2
        assert process.stderr is not None
        errors = process.stderr.read()
    assert "ValueError: my weights are missing (mine.py:2)" in errors
    assert "Traceback" not in errors
    assert "in a row" not in errors
