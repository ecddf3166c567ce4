"""Optional packages: named where they are missing, and kept from calling home."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from halftime.base.errors import MissingExtra
from halftime.base.extras import optional

# One conversion in a fresh process, as the fix does it; what it started and whom it called is
# counted by Python's own audit events. `before` is run first.
CONVERSION = """
import json, sys
counts = {{"processes": 0, "connections": 0}}
def count(event, arguments):
    if event in ("os.fork", "os.posix_spawn", "subprocess.Popen"):
        counts["processes"] += 1
    elif event in ("socket.connect", "socket.getaddrinfo"):
        counts["connections"] += 1
import torch
from halftime.fix.openvino import converter
{before}
sys.addaudithook(count)
convert = converter({{"precision": "float32"}})
run = convert(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 2),))
assert run([torch.zeros(1, 2)])[0].shape == (1, 2)
import time; time.sleep(1)
print(json.dumps(counts))
"""
WITH_TELEMETRY = "import openvino_telemetry"  # as a user's own code may have done


def counted(tmp_path: Path, before: str = "") -> dict[str, int]:
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in ("CI", "TF_BUILD", "JENKINS_URL", "NO_PROXY")
    }
    # The consent of this machine's user does not count, and nothing may leave this machine.
    closed = "http://127.0.0.1:9"
    variables |= {"HOME": str(tmp_path), "https_proxy": closed, "http_proxy": closed}
    completed = subprocess.run(
        [sys.executable, "-c", CONVERSION.format(before=before)],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    counts: dict[str, int] = json.loads(completed.stdout.splitlines()[-1])
    return counts


needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino_telemetry") is None, reason="openvino is not installed"
)


@needs_openvino
@pytest.mark.slow
def test_a_conversion_by_openvino_starts_no_process_and_calls_nobody(tmp_path: Path) -> None:
    assert counted(tmp_path) == {"processes": 0, "connections": 0}


@needs_openvino
@pytest.mark.slow
def test_without_us_it_would_and_the_count_shows_it(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    assert counted(tmp_path, WITH_TELEMETRY)["processes"] > 0


def test_a_missing_extra_is_named_with_its_command() -> None:
    with pytest.raises(MissingExtra, match=r"needs the package 'no_such'.*halftime\[lora\]"):
        optional("no_such.part", "lora", "A LoRA file")
