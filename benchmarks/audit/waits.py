"""Which lines of diffusers make the host wait in the denoising loop, release by release?

    python -m benchmarks.audit.waits --out benchmarks/results/audit_waits.json [--only NAME ...]
    python -m benchmarks.audit.waits --out benchmarks/results/audit_waits.json --page

Audits each tiny pipeline of the tests on the installed diffusers and adds what it found to the
result, under that diffusers' version: run it once in an environment of each release (`make waits
PYTHONS="VENV/bin/python ..."`). A pipeline that a release cannot build, or that the audit refuses,
is kept with the reason. Noise is drawn on the device, as a user's own generator would, so that
copies of the audit's own generator do not count. With --page, docs/waits.md is written from the
result, and nothing is audited.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import diffusers  # noqa: E402

from benchmarks.frame import Frame  # noqa: E402
from benchmarks.tables import between, table  # noqa: E402

PAGE = ROOT / "docs" / "waits.md"
STEPS = 4
Row = dict[str, Any]


def audited(name: str) -> Row:
    """One tiny pipeline: its class, and each line that waits in the loop with how often."""
    from halftime.pipeline.load import load_or_take
    from halftime.records import Workload
    from halftime.verbs.audit.run import audit_loaded, on_cpu
    from tiny_pipelines import BREADTH, FAMILIES, PIPELINES

    tiny = {**PIPELINES, **FAMILIES, **BREADTH}[name]
    workload = Workload(steps=STEPS)
    try:
        pipeline = tiny.build()
        own = {key: value for key, value in tiny.arguments(STEPS).items() if key != "generator"}
        loaded = load_or_take(pipeline, on_cpu(workload))
        result = audit_loaded(loaded, workload, own, generator="cuda")
    except Exception as error:
        text = next(iter(str(error).strip().splitlines()), "")
        return {"error": f"{type(error).__name__}: {text}"[:300]}
    return {
        "class": type(pipeline).__name__,
        "steps": result.steps_seen,
        "sites": [
            {
                "file": site.file,
                "line": site.line,
                "function": site.function,
                "kind": site.kind,
                "code": site.code,
                "count": site.count,
            }
            for site in result.sites
            if site.in_loop
        ],
    }


def names() -> list[str]:
    from tiny_pipelines import BREADTH, FAMILIES, PIPELINES

    return [*PIPELINES, *FAMILIES, *BREADTH]


def by_line(release: dict[str, Row]) -> dict[tuple[str, str, str], tuple[int, list[str]]]:
    """(file, function, code) -> how often in all, and in which pipelines. Lines' numbers move."""
    out: dict[tuple[str, str, str], tuple[int, list[str]]] = {}
    for name, row in release.items():
        for site in row.get("sites", ()):
            key = site["file"], site["function"], site["code"]
            count, pipelines = out.get(key, (0, []))
            out[key] = count + site["count"], [*pipelines, name]
    return out


def versions_in_order(releases: dict[str, dict[str, Row]]) -> list[str]:
    return sorted(releases, key=lambda text: [int(part) for part in text.split(".")[:3]])


def rewritten(page: str, releases: dict[str, dict[str, Row]]) -> str:
    return between(page, "waits", list(lines(releases)))


def lines(releases: dict[str, dict[str, Row]]) -> Iterator[str]:
    """The tables of the page: pipeline x release, what changed when, the open ones."""
    order = versions_in_order(releases)
    every = dict.fromkeys(name for release in order for name in releases[release])
    head = ("pipeline", *order)
    yield from table(
        head, [[name, *(_cell(releases[v].get(name)) for v in order)] for name in every]
    )
    yield ""
    for before, after in itertools.pairwise(order):
        both = [
            name for name in every if _ran(releases[before], name) and _ran(releases[after], name)
        ]
        old = by_line({name: releases[before][name] for name in both})
        new = by_line({name: releases[after][name] for name in both})
        yield f"From {before} to {after}, of the {len(both)} pipelines that ran in both:"
        yield ""
        changes = [
            *(["gone", *_line(key, *old[key])] for key in old if key not in new),
            *(["new", *_line(key, *new[key])] for key in new if key not in old),
        ]
        yield from table(
            ("", "line", "code", "times", "in"), changes or [["nothing", "", "", "", ""]]
        )
        yield ""
    newest = by_line(releases[order[-1]])
    yield f"Open in {order[-1]}, the most pipelines first:"
    yield ""
    rows = sorted(newest.items(), key=lambda item: -len(item[1][1]))
    yield from table(("line", "code", "times", "in"), [_line(key, *value) for key, value in rows])


def _ran(release: dict[str, Row], name: str) -> bool:
    return "sites" in release.get(name, {})


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if "error" in row:
        return row["error"].partition(":")[0]
    return str(sum(site["count"] for site in row["sites"]))


def _line(key: tuple[str, str, str], count: int, pipelines: list[str]) -> list[str]:
    file, function, code = key
    few = ", ".join(pipelines[:4]) + (
        f" and {len(pipelines) - 4} more" if len(pipelines) > 4 else ""
    )
    return [f"{file}, {function}", f"`{code.replace('|', chr(92) + '|')}`", str(count), few]


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--only", nargs="*", help="these pipelines")
    frame.parser.add_argument("--page", action="store_true", help="write docs/waits.md and end")
    options = frame.parse()
    releases: dict[str, dict[str, Row]] = frame.earlier().get("releases", {})  # type: ignore[assignment]
    if options.page:
        PAGE.write_text(rewritten(PAGE.read_text(), releases))
        return
    warnings.simplefilter("ignore")
    release = releases.setdefault(diffusers.__version__, {})
    for name in options.only or names():
        release[name] = audited(name)
        print(f"{diffusers.__version__} {name}: {_cell(release[name])}", flush=True)
        frame.write({"releases": releases})


if __name__ == "__main__":
    main()
