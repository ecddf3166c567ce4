"""What tests of the gateway share."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a self-signed certificate for localhost, in one file, from openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to write a certificate")
    key, both = tmp_path / "key.pem", tmp_path / "both.pem"
    words = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "
        f"{key} -out {both}"
    )
    subprocess.run(
        [*words.split(), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )
    both.write_text(key.read_text() + both.read_text())
    return both
