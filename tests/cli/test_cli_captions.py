"""`halftime captions` from the command line."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import openai
import pytest

from captions_synthetic import certified, chat, jpeg, synthetic
from captions_upstreams import Model, serving
from halftime.cli import main

AT_NOBODY = [
    "--small",
    "http://u/v1",
    "--small-model",
    "s",
    "--large",
    "http://u/v1",
    "--large-model",
    "l",
]


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["captions", *arguments])
    return int(caught.value.code or 0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join(msgspec.json.encode(row) for row in synthetic(4000).rows))
    return path


def test_calibrate_keeps_its_contract(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, router, page = tmp_path / "r.json", tmp_path / "router.json", tmp_path / "r.html"
    assert (
        run(["calibrate", str(log), "--json", str(out), "--out", str(router), "--html", str(page)])
        == 0
    )
    data = json.loads(out.read_text())
    for name in (
        "threshold",
        "alpha",
        "delta",
        "small_share",
        "savings",
        "quality_loss",
        "oracle_savings",
    ):
        assert isinstance(data[name], float)
    assert json.loads(router.read_text())["threshold"] == data["threshold"]
    assert "Sending" in capsys.readouterr().out


def test_too_few_examples_exit_with_one(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_bytes(b"\n".join(log.read_bytes().splitlines()[:200]))
    assert run(["calibrate", str(log)]) == 1
    assert "149" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["calibrate", "no-such.jsonl"], "cannot read"),
        (
            ["serve", "no-such.json", *AT_NOBODY],
            "cannot read",
        ),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["calibrate", "log.jsonl", "--router-cost", "-5"],
            "'--router-cost': -5.0 is not in the range",
        ),
        (
            ["calibrate", "log.jsonl", "--router-cost", "nan"],
            "'--router-cost': nan is not in the range",
        ),
        (["calibrate", "log.jsonl", "--router-seconds", "-1"], "'--router-seconds'"),
        (["calibrate", "log.jsonl", "--seed", "-1"], "'--seed': -1 is not in the range"),
        (["serve", "r.json", *AT_NOBODY, "--shadow", "2"], "'--shadow': 2.0 is not in the range"),
        (["serve", "r.json", *AT_NOBODY, "--shadow", "-1"], "'--shadow'"),
        (["serve", "r.json", *AT_NOBODY, "--port", "70000"], "'--port'"),
        (
            ["serve", "r.json", *AT_NOBODY, "--small", "foo"],
            "'foo' is not an http:// or https:// URL",
        ),
        (
            ["serve", "r.json", *AT_NOBODY, "--large", "http://:99999/v1"],
            "is not an http:// or https:// URL",
        ),
        (["collect", "r.jsonl", *AT_NOBODY, "--small-price", "-1"], "'--small-price'"),
    ],
)
def test_values_out_of_range_are_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_busy_port_is_said_before_any_address(tmp_path: Path) -> None:
    (tmp_path / "router.json").write_bytes(msgspec.json.encode(certified()))
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        words = [
            "captions",
            "serve",
            str(tmp_path / "router.json"),
            *AT_NOBODY,
            "--port",
            str(port),
        ]
        completed = subprocess.run(
            [sys.executable, "-m", "halftime", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (completed.returncode, completed.stdout) == (2, "")
    assert completed.stderr.startswith(
        f"halftime: cannot listen on 127.0.0.1 port {port}: Address already in use"
    )


def test_the_documented_calibration_gives_the_documented_number() -> None:
    """And its router's cost is the one that the benchmark measured."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "captions.md").read_text()
    command = re.search(
        r"^halftime captions (calibrate benchmarks/\S+ .*--router-cost (\S+).*)$",
        page,
        re.MULTILINE,
    )
    documented = re.search(
        r"cascade, certified\*\* \| ([\d.]+) % \| \*\*([\d.]+) %\*\* \[([\d.]+), ([\d.]+)\]", page
    )
    assert command is not None
    assert documented is not None
    measured = json.loads((root / "benchmarks/results/captions_savings.json").read_text())["result"]
    assert float(command[2]) == pytest.approx(measured["decision_cpu_seconds"], rel=0.001)
    words = [sys.executable, "-m", "halftime", "captions", *command[1].split(), "--json", "-"]
    completed = subprocess.run(words, capture_output=True, cwd=root, timeout=120, check=True)
    data = json.loads(completed.stdout)
    rounded = [
        f"{data[name]:.1%}" for name in ("small_share", "savings", "savings_low", "savings_high")
    ]
    assert rounded == [f"{number}%" for number in documented.groups()]


def test_serve_and_collect_run(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user does: collect a log from two models, calibrate, serve the router, and ask it."""
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "requests.jsonl").write_text(
        '{"image": "a.jpg", "prompt": "what?"}\n{"image": "none.jpg"}\n'
    )
    (tmp_path / "router.json").write_bytes(msgspec.json.encode(certified()))
    with serving(Model("s")) as small, serving(Model("l")) as large:
        upstreams = ["--small", small, "--small-model", "s", "--large", large, "--large-model", "l"]
        collected = tmp_path / "collected.jsonl"
        judge = ["--judge", "captions_synthetic:words"]
        assert (
            run(
                [
                    "collect",
                    str(tmp_path / "requests.jsonl"),
                    *upstreams,
                    *judge,
                    "--out",
                    str(collected),
                ]
            )
            == 0
        )
        assert "1 of 2 requests" in capsys.readouterr().out
        row = json.loads(collected.read_text())
        assert (row["small"]["text"], row["large"]["text"]) == (
            "s says a red apple",
            "l says a red apple",
        )
        assert row["small"]["quality"] == row["check"]["score"] == 5.0
        command = [
            sys.executable,
            "-m",
            "halftime",
            "captions",
            "serve",
            str(tmp_path / "router.json"),
            *upstreams,
        ]
        server = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = next(
                word for word in server.stdout.readline().split() if word.startswith("http")
            ).rstrip(",")
            client = openai.OpenAI(base_url=url, api_key="k", max_retries=0, timeout=30)
            assert client.chat.completions.create(**chat(jpeg(1))).model == "s"
            assert client.chat.completions.create(**chat(None)).model == "l"
        finally:
            server.terminate()
            server.wait(20)
