"""docs/evidence.md, from benchmarks/results.

    python -m benchmarks.evidence [--check]

A verb's row says what it was checked against, written from the results. A bar that was missed is
written like one that was reached.
"""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.frame import summary
from benchmarks.tables import RESULTS, ROOT, update
from halftime.base import units

PAGE = ROOT / "docs" / "evidence.md"
Result = dict[str, Any]

# Which command made the results whose names are not <verb>_<what>, the name of a benchmark.
MADE_BY = {
    "environments": "scripts.matrix",
    "fix_peers_2_threads": "benchmarks.fix.peers",
    "fix_verdict_*": "halftime verify",
    "forecast_check": "workshop.forecast.fit",
    "gateway_real/*": "benchmarks.gateway.real",
    "tune/tune": "halftime tune",
}


def result(name: str) -> Result:
    """What a benchmark measured, by its file's name without the ending."""
    values: Result = json.loads((RESULTS / f"{name}.json").read_text())["result"]
    return values


def committed(folder: Path, pattern: str) -> list[Path]:
    """Files of the checkout that git knows, so that a run in progress changes no page; outside a
    checkout, all."""
    listing = subprocess.run(
        ["git", "ls-files", "--", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    in_git = {ROOT / name for name in listing.stdout.splitlines()}
    return [path for path in sorted(folder.rglob(pattern)) if path in in_git or listing.returncode]


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def profile() -> str:
    wall = result("profile_overhead")["overhead"]["wall"]
    ours, theirs = wall["halftime"], wall["torch.profiler"]
    interval = f"[{100 * (ours['low'] - 1):.1f}, {100 * (ours['high'] - 1):.1f}]"
    return (
        f"adds up on {pipelines()} tiny pipelines; costs {percent(ours['value'] - 1)} of a "
        f"call ({interval}), torch.profiler {percent(theirs['value'] - 1)}"
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
    page = (ROOT / "docs" / "audit-coverage.md").read_text()
    rows = page.partition("\n## ")[0].count("Pipeline |")
    return (
        f"CogVideoX's published 79 waits, tiny and at real size; [{rows} tiny "
        "pipelines](audit-coverage.md)"
    )


def forecast() -> str:
    check = result("forecast_check")
    left_out, one_row = check["leave_one_gpu_out"], check["leave_one_gpu_out_one_row"]
    return (
        f"{check['rows']} published measurements: GPUs left out of the fit "
        f"{percent(left_out['median'])} median error, after one measured row "
        f"{percent(one_row['median'])}"
    )


def planned() -> str:
    check = result("plan_published")
    return (
        f"peaks of {len(check['rows'])} published calls, {percent(check['peak_error_median'])} off "
        f"(median), {check['peaks_within_share']:.0%} within 10 %; the fastest published way among "
        f"its first two in {check['first_two_share']:.0%} of {len(check['caps'])} memories"
    )


def verify() -> str:
    cases = result("verify_cases")["cases"]
    verdicts = [case["verdict"] for case in cases.values()]
    counts = ", ".join(
        f"{verdicts.count(word)} {word}"
        for word in ("equivalent", "different", "inconclusive")
        if word in verdicts
    )
    strict = sum(case["strict"] == "different" for case in cases.values())
    return f"{len(cases)} cases on the bundled model: {counts}; with `--strict` {strict} different"


def tune() -> str:
    tuning = json.loads((RESULTS / "tune" / "tune.json").read_text())
    rows = result("fix_peers_2_threads")["rows"]
    ours = next(row for row in rows if "best_peer" in row)
    # the first is the baseline
    peers = sum("speedup" in row and "best_peer" not in row for row in rows) - 1
    interval = f"[{tuning['speedup_low']:.2f}, {tuning['speedup_high']:.2f}]"
    against = f"[{ours['against_low']:.2f}, {ours['against_high']:.2f}]"
    return (
        f"bundled model, 2 threads, nothing set: {tuning['speedup']:.2f}x {interval}, "
        f"`{tuning['verdict']}` on {tuning['prompts']} prompts, in "
        f"{units.seconds(tuning['spent_seconds'])}; in turns with {peers} peers "
        f"{ours['speedup']:.2f}x, {ours['against_best_peer']:.2f}x {against} over the best of them"
    )


def gate() -> str:
    rows = result("gate_planted")["rows"]
    alarms = max(row["slower_share"] for row in rows if not row["slowdown_share"])
    finds = {
        row["slowdown_share"]: row["slower_share"]
        for row in rows
        if row["budget_seconds"] == min(row["budget_seconds"] for row in rows)
    }
    return (
        f"planted slowdowns between real processes: false alarms {percent(alarms)}, within 5 min "
        f"3 % found in {percent(finds[0.03])}, 10 % in {percent(finds[0.1])}"
    )


def gateway() -> str:
    rows = result("gateway_reach")["rows"]
    errors = [
        abs(row["measured"] - row["asked"]) for row in rows if row["what"].startswith("injected")
    ]
    reached = sum(row["reached"] for row in rows)
    return (
        f"injected delays within {units.seconds(max(errors))}, {reached} of {len(rows)} bars "
        "reached; nginx, Portkey, LiteLLM and a naive proxy run for real"
    )


def serve() -> str:
    load, faults = result("serve_load")["rows"], result("serve_faults")["rows"]
    worst = max(load, key=lambda row: row["times_capacity"])
    missed = [row["what"] for row in faults if row.get("reached") is False]
    missed_text = f"; missed: {', '.join(missed)}" if missed else ""
    return (
        "the official `openai` client; "
        f"{percent(worst['goodput_of_capacity'])} of capacity at {worst['times_capacity']:g} "
        f"times the load, {sum(row['unanswered'] for row in load)} unanswered; "
        f"{sum(row.get('reached') is True for row in faults)} of {len(faults)} faults as they "
        f"should be{missed_text}"
    )


def captions() -> str:
    savings = result("captions_savings")["alphas"]["0.02"]
    share = savings["savings, median and 5th to 95th percentile"][0]
    of_oracle = savings["of_oracle, median and 5th to 95th percentile"][0]
    return (
        f"{savings['repeats']} calibrations: savings {percent(share)} (median) at a certified 2 %, "
        f"guarantee held in {savings['guarantee held']}; {percent(of_oracle)} of an oracle's "
        "savings"
    )


# verb -> what it was checked against
CELLS: dict[str, Callable[[], str]] = {
    "profile": profile,
    "run": lambda: "scripts that build and call a pipeline themselves; measured as `profile` does",
    "trace": trace,
    "audit": audit,
    "forecast": forecast,
    "plan": planned,
    "verify": verify,
    "tune": tune,
    "gate": gate,
    "serve": serve,
    "gateway": gateway,
    "captions": captions,
    "replay": lambda: "planted differences, stage by stage",
    "show": lambda: "every committed benchmark result",
    "doctor": lambda: "planted settings, missing and broken packages",
}
VERBS_HEAD = """# What was measured, and how to repeat it

| verb | what it was checked against |
|---|---|"""


HEAD = """
Written by `make docs-tables` from `benchmarks/results/`. Every benchmark is a module whose docstring gives the regime,
the ceiling and what it prints; comparisons are interleaved and paired, and given as medians with intervals. Run one in
the checkout: `python -m MODULE --help` shows its options. It writes its result to `--out`, by default below `out/`, so that
a trial never overwrites a committed one.

| module | what it asks |
|---|---|"""  # noqa: E501
RESULTS_HEAD = """
`halftime show FILE` draws any of these. A record keeps the command that made it as it was typed then, whatever the
module is called now; the second column names the present one. Where a result's halftime names no commit, it was made
before records did.

| result | repeated by | made | machine | halftime | bars |
|---|---|---|---|---|---|"""  # noqa: E501


def evidence(page: str = "") -> str:
    """The page of all benchmarks, written whole: what each asks, its result, and where and when it
    was measured."""
    lines = [VERBS_HEAD, *(f"| [`{verb}`]({verb}.md) | {cell()} |" for verb, cell in CELLS.items())]
    lines += [HEAD, *(f"| `{module}` | {question} |" for module, question in benchmarks().items())]
    lines += [RESULTS_HEAD, *map(row, committed(RESULTS, "*.json"))]
    return "\n".join(lines) + "\n"


@cache
def benchmarks() -> dict[str, str]:
    """Every module that measures, one with a Frame, and what it asks."""
    questions = {}
    for folder in ("benchmarks", "workshop"):
        for path in committed(ROOT / folder, "*.py"):
            if "gpu" in path.parts:  # what it measures stands in docs/hardware.md
                continue
            source = path.read_text()
            if "\n    frame = Frame(" in source:
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                questions[module] = summary(ast.get_docstring(ast.parse(source)))
    return questions


def made_by(path: Path) -> list[str]:
    """The present commands that make a result, by its name: one, or the tables above are wrong."""
    name = path.relative_to(RESULTS).with_suffix("").as_posix()
    exceptions = [command for pattern, command in MADE_BY.items() if fnmatch(name, pattern)]
    by_name = [module for module in benchmarks() if name == "_".join(module.rsplit(".", 2)[-2:])]
    return exceptions + by_name


def row(path: Path) -> str:
    record = json.loads(path.read_text())
    environment = record.get("environment") or record.get("machine") or {}
    torch = (environment.get("versions") or {}).get("torch")
    words = [
        environment.get("processor"),
        f"{environment['cores']} cores" if environment.get("cores") else None,
        f"torch {torch}" if torch else None,
    ]
    cells = [
        f"`{path.relative_to(ROOT)}`",
        " ".join(f"`{command}`" for command in made_by(path)),
        record.get("created", "")[:10],
        ", ".join(word for word in words if word) or "not recorded",
        record["halftime"],
        bars(record),
    ]
    return f"| {' | '.join(cells)} |"


def bars(record: Result) -> str:
    rows = record.get("result", {}).get("rows")
    reached = [row["reached"] for row in rows if "reached" in row] if isinstance(rows, list) else []
    return f"{sum(map(bool, reached))} of {len(reached)} reached" if reached else ""


if __name__ == "__main__":
    update({PAGE: evidence})
