"""`make matrix`: the oldest, a middle, the pinned and the newest versions, each tested in turn.

    python scripts/matrix.py [--only NAME] [--folder DIR] [--page]

For each environment: a virtual environment below --folder, halftime in it with its extras for
servers, the contract tests of upstream's internals, and a cross-section of every verb, each check
bounded in time. The result goes to benchmarks/results/environments.json, and from there into
docs/environments.md and the table by which `halftime doctor` says which versions were tested.
--page writes these two alone. The environments take 20 GB (torch's CUDA builds from PyPI).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.tables import between, table  # noqa: E402
from halftime.base.store import read_json, write_json  # noqa: E402
from halftime.base.version import version  # noqa: E402
from halftime.records.benchmark import Benchmark  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "environments.json"
PAGE = ROOT / "docs" / "environments.md"
TESTED = ROOT / "src" / "halftime" / "verbs" / "doctor" / "tested.json"
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft")


class Environment(NamedTuple):
    """A Python, by its minor version, and what pip gets beside halftime's own requirements."""

    name: str
    python: str
    requirements: tuple[str, ...]


ENVIRONMENTS = (
    Environment("oldest", "3.11", ("torch==2.8.0", "diffusers==0.35.2", "transformers==4.57.6")),
    Environment("middle", "3.12", ("torch==2.11.0", "diffusers==0.39.0", "transformers==5.17.0")),
    Environment("pinned", "3.11", ("--constraint", str(ROOT / "constraints.txt"))),
    Environment("newest", "3.13", ("--upgrade", "torch", "diffusers", "transformers")),
)
# What the contract tests and the tests of the cross-section import.
TOOLS = ("pytest", "pytest-timeout", "hypothesis", "scipy", "ftfy", "httpx", "openai")
EXTRAS = "captions,gateway,lora,serve"


class Check(NamedTuple):
    """One command; `halftime` and `pytest` run from the environment, in the order of CHECKS."""

    name: str
    words: tuple[str, ...]
    exit_codes: tuple[int, ...] = (0,)
    most_seconds: int = 900


RECORD_TRACE = (
    "import torch; from torch.profiler import ProfilerActivity, profile; from halftime import "
    "bundled; pipeline = bundled.load()\n"
    "with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:\n"
    "    pipeline('a cat', num_inference_steps=2)\n"
    "profiler.export_chrome_trace('trace.json')"
)
# A verdict other than yes is an answer too: it is the pictures and this machine that are judged.
VERDICTS = (0, 1, 3)
PLAN = str(ROOT / "scripts" / "matrix.toml")
SHORT = ("--steps", "2", "--quiet")
CHECKS = (
    Check("contract tests of upstream", ("pytest", "tests/test_upstream.py")),
    Check(
        "profile",
        ("halftime", "profile", "--runs", "2", *SHORT, "--html", "p.html", "--json", "p.json"),
    ),
    Check("each kind of pipeline and file", ("pytest", "tests/cli/test_cli_pipelines.py")),
    Check("every weight from its file", ("pytest", "tests/pipeline/test_random_weights.py")),
    Check("run", ("pytest", "tests/verbs/profile/test_profile_inplace.py")),
    Check("replay", ("halftime", "replay", "p.json", "--quiet"), VERDICTS),
    Check("show", ("halftime", "show", "p.json")),
    Check("a trace by torch.profiler", ("python", "-c", RECORD_TRACE)),
    Check("trace", ("halftime", "trace", "trace.json", "--json", "t.json")),
    Check("audit", ("halftime", "audit", "--steps", "2", "--json", "a.json")),
    Check("forecast", ("halftime", "forecast", "sdxl", "--json", "f.json")),
    Check("plan", ("halftime", "plan", "sdxl", "--card", "L4", "--json", "n.json")),
    Check(
        "verify",
        ("halftime", "verify", "baseline", PLAN, "--prompts", "4", *SHORT),
        VERDICTS,
    ),
    Check(
        "tune",
        ("halftime", "tune", "--budget", "60s", "--prompts", "4", "--no-artefacts", *SHORT),
        VERDICTS,
    ),
    Check(
        "gate",
        ("halftime", "gate", "--against", PLAN, "--exact", "--pictures", "0", *SHORT),
        VERDICTS,
    ),
    Check(
        "a fix compiled and undone",
        ("pytest", "tests/fix/test_fix_undo.py", "-k", "compiled_and_undone"),
    ),
    Check("audit rules", ("pytest", "tests/verbs/audit/test_audit_rules.py")),
    Check("serve, engine and worker", ("pytest", "tests/verbs/serve/test_serve_worker.py")),
    Check("gateway", ("pytest", "tests/verbs/gateway/test_gateway_live.py")),
    Check("captions", ("pytest", "tests/verbs/captions/test_captions_router.py")),
    Check("doctor", ("halftime", "doctor", "--json", "d.json")),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [environment.name for environment in ENVIRONMENTS]
    parser.add_argument("--only", action="append", choices=names, help="may be given several times")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "matrix")
    parser.add_argument("--page", action="store_true", help="write page and table from the result")
    options = parser.parse_args()
    if not options.page:
        for environment in ENVIRONMENTS:
            if environment.name in (options.only or names):
                print(f"== {environment.name}", flush=True)
                save(tested(environment, make(environment, options.folder)))
    write_pages(rows())


# ---- making and testing


def make(environment: Environment, folder: Path) -> Path:
    """The environment's Python, with halftime and the test tools."""
    python = folder / environment.name / "bin" / "python"
    if not python.exists():
        interpreter = interpreter_of(environment.python)
        subprocess.run([interpreter, "-m", "venv", str(python.parents[1])], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    project = f"{ROOT}[{EXTRAS}]"
    subprocess.run([*install, *environment.requirements, "--editable", project, *TOOLS], check=True)
    return python


def interpreter_of(minor: str) -> str:
    """A Python of this minor version: on the path, or pyenv's. Raises SystemExit."""
    on_path = shutil.which(f"python{minor}")
    version_words = [on_path or "", "--version"]
    if on_path and not subprocess.run(version_words, capture_output=True, check=False).returncode:
        return on_path  # pyenv leaves names on the path that fail
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = sorted(pyenv.glob(f"{minor}.*/bin/python"))
    if not candidates:
        sys.exit(f"make matrix needs Python {minor}: put python{minor} on the path")
    return str(candidates[-1])


def tested(environment: Environment, python: Path) -> dict[str, object]:
    """One environment's row: its versions, and what each check said."""
    with tempfile.TemporaryDirectory() as scratch:
        checks = [outcome(check, python, Path(scratch)) for check in CHECKS]
    return {"environment": environment.name, "versions": versions(python), "checks": checks}


def outcome(check: Check, python: Path, scratch: Path) -> dict[str, object]:
    """Run one check. Where it fails, `says` is the line that tells most."""
    start = time.monotonic()
    try:
        completed = subprocess.run(
            command(check.words, python),
            cwd=ROOT if check.words[0] == "pytest" else scratch,
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "OMP_WAIT_POLICY": "PASSIVE",
                "PYTHONPATH": str(ROOT / "src"),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=check.most_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        passed, says = False, f"not finished after {check.most_seconds} s"
    else:
        passed = completed.returncode in check.exit_codes
        says = "" if passed else last_word(completed.stdout + completed.stderr)
    seconds = time.monotonic() - start
    print(f"   {'ok ' if passed else 'NO '} {check.name}, {seconds:.0f} s {says}", flush=True)
    return {"check": check.name, "passed": passed, "seconds": seconds, "says": says}


def command(words: tuple[str, ...], python: Path) -> list[str]:
    """The words, with the first as a module of the environment's Python."""
    program, *arguments = words
    if program == "python":
        return [str(python), *arguments]
    bare = ["-o", "addopts=", "-p", "no:cacheprovider", "-q", "--tb=line"]
    return [str(python), "-m", program, *(bare if program == "pytest" else []), *arguments]


def last_word(output: str) -> str:
    """pytest's first FAILED or ERROR line, else the last line that says anything."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "halftime:"))]
    counts = [line for line in lines if " failed" in line and " in " in line]
    return " ".join([*(failed[:1] or lines[-1:]), *counts[-1:]])[:300]


def versions(python: Path) -> dict[str, str]:
    """Python's version, and each package's."""
    code = (
        "import json, platform; from importlib.metadata import version; "
        f"print(json.dumps({{'python': platform.python_version()}} | "
        f"{{name: version(name) for name in {PACKAGES}}}))"
    )
    completed = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(completed.stdout)
    return found


# ---- the result, the page and the table for doctor


def rows() -> list[dict]:
    """The environments of the committed result, in the order of ENVIRONMENTS."""
    stored = read_json(RESULT, Benchmark).result["environments"] if RESULT.exists() else []
    order = [environment.name for environment in ENVIRONMENTS]
    assert isinstance(stored, list)
    return sorted(stored, key=lambda row: order.index(row["environment"]))


def save(row: dict[str, object]) -> None:
    """Put one environment's row into the result, in place of its earlier one."""
    kept = [earlier for earlier in rows() if earlier["environment"] != row["environment"]]
    record = Benchmark(
        benchmark="environments",
        asks="Which versions of Python, torch, diffusers and transformers halftime works with.",
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command="make matrix",
        result={"environments": [*kept, row]},
    )
    write_json(RESULT, record)


def write_pages(environments: list[dict]) -> None:
    """The table of docs/environments.md, and the versions for `doctor`."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(between(page, "matrix", list(page_lines(environments))), encoding="utf-8")
    summary = [
        {
            "environment": row["environment"],
            "versions": row["versions"],
            "failed": [check["check"] for check in row["checks"] if not check["passed"]],
        }
        for row in environments
    ]
    TESTED.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def page_lines(environments: list[dict]) -> Iterator[str]:
    """A table with a column for each environment, and what each failed check said."""
    head = ("", *(row["environment"] for row in environments))
    body = [
        [name, *(row["versions"].get(name, "-") for row in environments)]
        for name in ("python", *PACKAGES)
    ]
    names = dict.fromkeys(check["check"] for row in environments for check in row["checks"])
    body += [[name, *(cell(name, row["checks"]) for row in environments)] for name in names]
    yield from table(head, body)
    failures = [
        f"- {row['environment']}, {check['check']}: `{check['says']}`"
        for row in environments
        for check in row["checks"]
        if not check["passed"]
    ]
    yield from ["", "What failed:", "", *failures] if failures else ["", "Nothing failed."]


def cell(name: str, checks: Iterable[dict]) -> str:
    """'yes, 12 s', 'no', or '-' where the check was not run."""
    for check in checks:
        if check["check"] == name:
            return f"yes, {check['seconds']:.0f} s" if check["passed"] else "**no**"
    return "-"


if __name__ == "__main__":
    main()
