"""The tables in docs/serve.md are those of the measurements."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_tables_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "serve_table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
