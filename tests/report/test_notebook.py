"""The notebook front, in a real kernel: records draw themselves, a bar shows progress, and
importing stays light."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from halftime.base import progress
from halftime.records import Finding
from halftime.report.registry import REPORT_FUNCTIONS, named, report_of

ROOT = Path(__file__).parents[2]
CELLS = (
    "import sys, halftime\nprint('torch' in sys.modules, 'jinja2' in sys.modules)",
    "from tiny_pipelines import PIPELINES\n"
    "session = halftime.profile(PIPELINES['sdxl'].build(), halftime.Workload(steps=2, "
    "width=32, height=32), runs=1)",
    "session",
    (
        "halftime.Finding(id='vae-fp32', stage='vae_decode', message='the <vae> runs in fp32', "
        "seconds=0.5, ceiling=2.0)"
    ),
    "halftime.forecast('sdxl', 'A10G')",
)


@pytest.fixture(scope="module")
def cells() -> list[nbformat.NotebookNode]:
    """The cells after a real kernel ran them."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        NotebookClient(made, timeout=120, kernel_name="python3").execute()
    return made.cells


def drawn(cell: nbformat.NotebookNode) -> str:
    return "".join(output.data.get("text/html", "") for output in cell.outputs if "data" in output)


@pytest.mark.slow
def test_importing_stays_light(cells: list[nbformat.NotebookNode]) -> None:
    assert cells[0].outputs[0].text == "False False\n"


@pytest.mark.slow
def test_progress_is_shown_and_gone_when_done(cells: list[nbformat.NotebookNode]) -> None:
    outputs = cells[1].outputs
    assert [output.output_type for output in outputs if output.output_type == "display_data"] == [
        "display_data"
    ]
    assert "<progress" not in drawn(cells[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "words"),
    [(2, "unexplained"), (3, "the &amp;lt;vae&amp;gt; runs"), (4, "sdxl on one A10G")],
)
def test_records_draw_themselves(
    cells: list[nbformat.NotebookNode], index: int, words: str
) -> None:
    text = drawn(cells[index])
    assert text.startswith("<iframe id=")
    assert words in text
    assert len(text) < 200_000


def test_every_renderer_is_for_a_type_that_exists() -> None:
    for kind, target in REPORT_FUNCTIONS.items():
        found = named(kind)
        assert isinstance(found, type)
        assert f"{found.__module__}:{found.__qualname__}" == kind
        assert callable(named(target))


def test_without_ipython_nothing_happens() -> None:
    code = (
        "from halftime.base.progress import in_a_notebook; "
        "from halftime.report.notebook import register; print(register(), in_a_notebook())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_a_bar_moves_with_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    from IPython import display

    shown: list[str] = []

    class Handle:
        def update(self, drawn: display.HTML) -> None:
            shown.append(drawn.data)

    monkeypatch.setattr(progress, "in_a_notebook", lambda: True)
    monkeypatch.setattr(display, "display", lambda *args, **kwargs: Handle())
    with progress.notebook_bar() as show:
        show("steady <run>", 1, 5)
    assert shown == ['<progress max="5" value="1"></progress> steady &lt;run&gt; (1 of 5)', ""]


def test_a_finding_with_its_evidence() -> None:
    found = report_of(
        Finding(id="x", stage="denoise", message="m", where=("a.py:1",), evidence={"calls": 3})
    )
    assert "a.py:1" in str(found.sections)
    assert "calls" in str(found.sections)
