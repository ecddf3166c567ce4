"""The tables of docs/fix-breadth.md, from benchmarks/results/fix_breadth.json.

    python -m benchmarks.fix.breadth_page [--check]

Rewrites the text between the page's markers; --check only says whether that would change it.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from string import ascii_lowercase
from typing import Any

from benchmarks.tables import ROOT, between, result, table, update
from halftime.records.fixes import FIX_ROWS

PAGE = ROOT / "docs" / "fix-breadth.md"
UNBUILT = ROOT / "tests" / "tiny_pipelines" / "unbuilt.py"
Row = dict[str, Any]
Reasons = dict[str, dict[str, str]]  # fix -> reason -> its letter
NUMBERS = {fix: str(number) for number, fix in enumerate(FIX_ROWS, start=1)}
APPLIES, FAILS = "●", "**FAILS**"


# ---- reading


def reason(text: str) -> str:
    """Why a fix refuses, without its name, its figures and what to do."""
    inner = re.sub(r"^fix '[^']*' does not apply: ", "", text)
    inner = re.sub(r"^fix '[^']*' (is not '[^']*'|does not work) on this pipeline.*?: ", "", inner)
    inner = re.sub(r"in a probe of \d steps ", "in a probe ", inner)
    inner = re.split(r"[.;] (?=[A-Z]|use )", inner)[0]
    return re.sub(r"\b[0-9][0-9.]*(e-?[0-9]+)?(?= |$|\))", "N", inner).rstrip(".")


def cells(rows: dict[str, Row], fix: str) -> list[dict[str, Any]]:
    """Of one fix."""
    return [row["cells"][fix] for row in rows.values() if fix in row.get("cells", {})]


def letters(rows: dict[str, Row]) -> Reasons:
    """The reasons of each fix, the most frequent first."""
    return {
        fix: {
            words: _letter(index)
            for index, (words, _) in enumerate(_refusals(rows, fix).most_common())
        }
        for fix in FIX_ROWS
    }


def _refusals(rows: dict[str, Row], fix: str) -> Counter[str]:
    return Counter(
        reason(cell["text"]) for cell in cells(rows, fix) if cell["outcome"] == "refuses"
    )


def _letter(index: int) -> str:
    turns, place = divmod(index, len(ascii_lowercase))
    return ascii_lowercase[place] * (turns + 1)


# ---- counts first


def counted(rows: dict[str, Row]) -> str:
    """'N rows of M cells: ... apply, ... refuse, ... fail'."""
    outcomes = Counter(
        cell["outcome"] for row in rows.values() for cell in row.get("cells", {}).values()
    )
    errors = sum("error" in row for row in rows.values())
    words = (
        f"**{len(rows)} rows, {sum(outcomes.values())} cells: {outcomes['applies']} apply, "
        f"{outcomes['refuses']} refuse, {outcomes['fails']} fail.**"
    )
    absent = sum("absent" in row for row in rows.values())
    words += f" {errors} rows could not be measured." if errors else ""
    return words + (f" {absent} rows are not in this diffusers." if absent else "")


def measured_by(rows: dict[str, Row]) -> str:
    """Which code and versions the rows come from."""
    codes = Counter(row["code"] for row in rows.values())
    versions = Counter(
        ", ".join(f"{package} {version}" for package, version in row["versions"].items())
        for row in rows.values()
        if "versions" in row
    )
    words = " and ".join(f"`{code}` ({count} rows)" for code, count in codes.most_common())
    columns = Counter(code for row in rows.values() for code in row.get("columns", {}).values())
    words += "".join(
        f"; `{code}` (single columns, {count} cells)" for code, count in columns.most_common()
    )
    software = "; ".join(f"{text} ({count} rows)" for text, count in versions.most_common())
    return f"Source that measured them: {words}." + (f" Versions: {software}." if software else "")


def by_fix(rows: dict[str, Row]) -> Iterator[str]:
    """A line for each fix: how often it applies, how far it was off, how often it refuses."""
    lines = []
    for fix, row in FIX_ROWS.items():
        outcomes = Counter(cell["outcome"] for cell in cells(rows, fix))
        lines.append(
            [
                NUMBERS[fix],
                f"`{fix}`",
                row.level,
                str(outcomes["applies"]),
                _largest(cells(rows, fix)),
                str(outcomes["refuses"]),
                f"**{outcomes['fails']}**" if outcomes["fails"] else "0",
            ]
        )
    head = ("", "fix", "promises", "applies", "off by at most", "refuses", "fails")
    yield from table(head, lines)


def _largest(of_fix: list[dict[str, Any]]) -> str:
    differences = [
        cell["difference"]
        for cell in of_fix
        if cell["outcome"] == "applies" and cell.get("difference") is not None
    ]
    if not differences:
        return ""
    return f"{max(differences):.0e}".replace("e-0", "e-") if max(differences) else "0"


# ---- the matrix


def matrix(rows: dict[str, Row], first: str) -> Iterator[str]:
    """The counts, the whole matrix, its reasons, and what fails."""
    yield counted(rows)
    yield ""
    if not rows:
        return
    yield measured_by(rows)
    yield ""
    yield from by_fix(rows)
    yield ""
    yield f"Each {first}, by the numbers of the fixes:"
    yield ""
    yield from _cells(rows, first)
    yield ""
    yield from _failures(rows)
    yield "Why a fix refuses, and how often:"
    yield ""
    for fix, words in letters(rows).items():
        if words:
            counts = _refusals(rows, fix)
            listed = "; ".join(
                f"**{letter}** {_escaped(text)} ({counts[text]})" for text, letter in words.items()
            )
            yield f"- {NUMBERS[fix]}, `{fix}`: {listed}."
    yield ""


def _cells(rows: dict[str, Row], first: str) -> Iterator[str]:
    reasons = letters(rows)
    checks = [name for name in ("profile", "audit") if any(name in row for row in rows.values())]
    lines = []
    for name, row in rows.items():
        by_name = row.get("cells", {})
        if "absent" in row:
            continue
        lines.append(
            [
                name,
                *(_check(row.get(check)) for check in checks),
                *(shown(fix, by_name.get(fix), reasons) for fix in FIX_ROWS),
            ]
        )
    yield from table((first, *checks, *NUMBERS.values()), lines)


def shown(fix: str, cell: dict[str, Any] | None, reasons: Reasons) -> str:
    """One cell: that it applies, a reason's letter, or FAILS."""
    if cell is None:
        return ""
    if cell["outcome"] == "refuses":
        return reasons[fix][reason(cell["text"])]
    return {"applies": APPLIES, "fails": FAILS}[cell["outcome"]]


def _check(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    return {"applies": "right", "refuses": "refuses", "fails": FAILS}[cell["outcome"]]


def _failures(rows: dict[str, Row]) -> Iterator[str]:
    failing = [
        f"- {name}, {fix}: {cell['text']}"
        for name, row in rows.items()
        for fix, cell in {
            **{check: row[check] for check in ("profile", "audit") if check in row},
            **row.get("cells", {}),
        }.items()
        if cell["outcome"] == "fails"
    ] + [f"- {name}: {row['error']}" for name, row in rows.items() if "error" in row]
    if failing:
        yield "What fails:"
        yield ""
        yield from map(_escaped, failing)
        yield ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


# ---- what is not there


def unbuilt() -> Iterator[str]:
    """The pipeline classes without a row, by the reason."""
    names = Counter[str]()
    listed: dict[str, list[str]] = {}
    for name, why in _not_built().items():
        names[why] += 1
        listed.setdefault(why, []).append(f"`{name}`")
    yield f"**{names.total()} classes.**"
    yield ""
    lines = [[why, str(count), ", ".join(listed[why])] for why, count in names.most_common()]
    yield from table(("why", "classes", "which"), lines)


def _not_built() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("unbuilt", UNBUILT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    not_built: dict[str, str] = module.NOT_BUILT
    return not_built


def rewritten(page: str) -> str:
    measured = {"families": {}, "states": {}, "oldest": {}, **(result("fix_breadth") or {})}
    page = between(page, "families", list(matrix(measured["families"], "family"))[:-1])
    page = between(page, "states", list(matrix(measured["states"], "state"))[:-1])
    page = between(page, "oldest", list(matrix(measured["oldest"], "family"))[:-1])
    return between(page, "unbuilt", list(unbuilt()))


if __name__ == "__main__":
    update({PAGE: rewritten})
