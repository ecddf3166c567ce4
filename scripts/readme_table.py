"""The README's evidence column and docs/evidence.md, from benchmarks/results/*.json.

    python scripts/readme_table.py            rewrites both; with --check it only says whether they
    are up to date

A verb with a function here has its cell written from the results; the others' cells are left as
they stand. What was not reached is written like what was.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from halftime.base import units

ROOT = Path(__file__).parent.parent
README, PAGE = ROOT / "README.md", ROOT / "docs" / "evidence.md"
RESULTS = ROOT / "benchmarks" / "results"
Result = dict[str, Any]


def result(name: str) -> Result:
    """What a benchmark measured, by its file's name without ending."""
    found: Result = json.loads((RESULTS / f"{name}.json").read_text())["result"]
    return found


def committed(folder: Path, pattern: str) -> list[Path]:
    """Files of the checkout that git knows, so that a run in progress changes no page; outside a
    checkout, all."""
    done = subprocess.run(
        ["git", "ls-files", "--", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    known = {ROOT / name for name in done.stdout.splitlines()}
    return [path for path in sorted(folder.rglob(pattern)) if path in known or done.returncode]


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def profile() -> str:
    wall = result("profile_overhead")["overhead"]["wall"]
    ours, theirs = wall["halftime"], wall["torch.profiler"]
    interval = f"[{100 * (ours['low'] - 1):.1f}, {100 * (ours['high'] - 1):.1f}]"
    return (
        f"adds up on {pipelines()} tiny pipelines; costs {percent(ours['value'] - 1)} of a "
        f"call ({interval}), "
        f"torch.profiler {percent(theirs['value'] - 1)}"
    )


def pipelines() -> int:
    """How many tiny pipelines the tests build: the entries of the table PIPELINES."""
    tree = ast.parse((ROOT / "tests" / "tiny_pipelines" / "__init__.py").read_text())
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "PIPELINES"
    )
    assert isinstance(table, ast.Dict)
    return len(table.keys)


def trace() -> str:
    speedup = result("trace_reading")["speedup_over_hta"]["value"]
    return (
        "planted stalls to the nanosecond; HolisticTraceAnalysis within 1 %, and "
        f"{speedup:.1f}x faster at reading"
    )


def audit() -> str:
    rows = (
        (ROOT / "docs" / "audit-coverage.md").read_text().partition("\n## ")[0].count("Pipeline |")
    )
    return (
        f"CogVideoX's published 79 waits, tiny and at real size; [{rows} tiny "
        "pipelines](docs/audit-coverage.md)"
    )


def forecast() -> str:
    found = result("forecast_check")
    left_out, one_row = found["leave_one_gpu_out"], found["leave_one_gpu_out_one_row"]
    return (
        f"{found['rows']} published measurements: GPUs left out of the fit "
        f"{percent(left_out['median'])} median error, "
        f"after one measured row {percent(one_row['median'])}"
    )


def verify() -> str:
    cases = result("verify_cases")["cases"]
    by = {
        word: [name for name, case in cases.items() if case["verdict"] == word]
        for word in ("equivalent", "different", "inconclusive")
    }
    words = ", ".join(f"{len(names)} {word}" for word, names in by.items() if names)
    strict = sum(case["strict"] == "different" for case in cases.values())
    return f"{len(cases)} cases on the bundled model: {words}; with `--strict` {strict} different"


def tune() -> str:
    found = json.loads((RESULTS / "tune" / "tune.json").read_text())
    rows = result("fix_peers_2_threads")["rows"]
    ours = next(row for row in rows if "best_peer" in row)
    # the first is the baseline
    peers = sum("speedup" in row and "best_peer" not in row for row in rows) - 1
    against = f"[{ours['against_low']:.2f}, {ours['against_high']:.2f}]"
    return (
        f"bundled model, 2 threads, nothing set: {found['speedup']:.2f}x "
        f"[{found['speedup_low']:.2f}, "
        f"{found['speedup_high']:.2f}], `{found['verdict']}` on {found['prompts']} prompts, in "
        f"{units.seconds(found['spent_seconds'])}; in turns with {peers} peers "
        f"{ours['speedup']:.2f}x, "
        f"{ours['against_best_peer']:.2f}x {against} over the best of them"
    )


def gateway() -> str:
    rows = result("gateway_reach")["rows"]
    errors = [
        abs(row["measured"] - row["asked"]) for row in rows if row["what"].startswith("injected")
    ]
    reached = sum(row["reached"] for row in rows)
    return (
        f"injected delays within {units.seconds(max(errors))}, {reached} of {len(rows)} bars "
        "reached; "
        "nginx, Portkey, LiteLLM and a naive proxy run for real"
    )


def serve() -> str:
    load, faults = result("serve_load")["rows"], result("serve_faults")["rows"]
    worst = max(load, key=lambda row: row["times_capacity"])
    missed = [row["what"] for row in faults if row.get("reached") is False]
    lost = f"; missed: {', '.join(missed)}" if missed else ""
    return (
        "the official `openai` client; "
        f"{percent(worst['goodput_of_capacity'])} of capacity at {worst['times_capacity']:g} "
        "times the load, "
        f"{sum(row['unanswered'] for row in load)} unanswered; "
        f"{sum(row.get('reached') is True for row in faults)} of {len(faults)} faults as they "
        f"should be{lost}"
    )


def captions() -> str:
    found = result("captions_savings")["alphas"]["0.02"]
    saved = found["savings, median and 5th to 95th percentile"][0]
    of_oracle = found["of_oracle, median and 5th to 95th percentile"][0]
    return (
        f"{found['repeats']} calibrations: savings {percent(saved)} (median) at a certified 2 "
        "%, guarantee held in "
        f"{found['guarantee held']}; {percent(of_oracle)} of an oracle's savings"
    )


# verb -> the results that its cell needs, and the cell
CELLS: dict[str, tuple[set[str], Callable[[], str]]] = {
    "profile": ({"profile_overhead"}, profile),
    "trace": ({"trace_reading"}, trace),
    "audit": (set(), audit),
    "forecast": ({"forecast_check"}, forecast),
    "verify": ({"verify_cases"}, verify),
    "tune": ({"tune", "fix_peers_2_threads"}, tune),
    "serve": ({"serve_load", "serve_faults"}, serve),
    "gateway": ({"gateway_reach"}, gateway),
    "captions": ({"captions_savings"}, captions),
}


def readme(page: str) -> str:
    """The README with the evidence column of the table of verbs written anew."""
    there = {path.stem for path in committed(RESULTS, "*.json")}
    for verb, (needs, cell) in CELLS.items():
        if not needs <= there:
            continue
        text = cell()
        row = re.compile(
            rf"^(\| \[`{verb}`\]\(docs/{verb}\.md\) \| [^|]* \|)[^|\n]*\|$", re.MULTILINE
        )
        page, count = row.subn(rf"\1 {text} |", page)
        assert count == 1, f"README.md has no row for {verb}"
    return page


def evidence() -> str:
    """The page of all benchmarks: what each asks, its result, and where and when it was made."""
    return "\n".join([HEAD, *benchmarks(), "", *results(), ""])


HEAD = """# What was measured, and how to repeat it

Written by `make docs-tables` from `benchmarks/results/`. Every benchmark is a script whose docstring gives the regime,
the ceiling and what it prints; comparisons are interleaved and paired, and given as medians with intervals. Where a
result's halftime names no commit, it was made before records did. `halftime show FILE` draws any of them.

| script | what it asks |
|---|---|"""  # noqa: E501


def benchmarks() -> Iterator[str]:
    for path in committed(ROOT / "benchmarks", "*.py"):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            first = (ast.get_docstring(tree) or "").partition("\n")[0]
            yield f"| `{path.relative_to(ROOT)}` | {first} |"


def results() -> Iterator[str]:
    yield "| result | made | machine | halftime | bars |\n|---|---|---|---|---|"
    for path in committed(RESULTS, "*.json"):
        yield line(path)


def line(path: Path) -> str:
    found = json.loads(path.read_text())
    place = found.get("environment") or found.get("machine") or {}
    torch = (place.get("versions") or {}).get("torch")
    words = [
        place.get("processor"),
        f"{place['cores']} cores" if place.get("cores") else None,
        f"torch {torch}" if torch else None,
    ]
    machine = ", ".join(word for word in words if word) or "not recorded"
    name = path.relative_to(ROOT)
    return (
        f"| `{name}` | {found.get('created', '')[:10]} | {machine} | {found['halftime']} | "
        f"{bars(found)} |"
    )


def bars(found: Result) -> str:
    rows = found.get("result", {}).get("rows")
    reached = [row["reached"] for row in rows if "reached" in row] if isinstance(rows, list) else []
    return f"{sum(map(bool, reached))} of {len(reached)} reached" if reached else ""


def main() -> None:
    made = {README: readme(README.read_text()), PAGE: evidence()}
    if "--check" in sys.argv:
        stale = [
            path.name
            for path, text in made.items()
            if not path.exists() or path.read_text() != text
        ]
        sys.exit(f"{', '.join(stale)} not up to date: run make docs-tables" if stale else None)
    for path, text in made.items():
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
