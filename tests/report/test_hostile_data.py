"""Whatever text a record holds stays text, wherever a report goes: every record and field."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hostile import Filler, records
from rich.console import Console

from halftime.base.store import data_of
from halftime.records import Record, Session
from halftime.records.audit import Audit
from halftime.records.forecast import Calibration
from halftime.records.tune import Slide, Tuning
from halftime.report import tune as tune_report
from halftime.report.audit import github_annotations
from halftime.report.comparison import comparison_of
from halftime.report.console import print_report
from halftime.report.forecast import calibration_report_of
from halftime.report.markdown import markdown
from halftime.report.model import Report
from halftime.report.notebook import page_in_a_frame
from halftime.report.page import html
from halftime.report.registry import record_types, report_of

# Labels as long as ours leave a chart no room.
pytestmark = pytest.mark.filterwarnings("ignore:constrained_layout not applied")

HOSTILE = (
    "\"'><planted><img src=x onerror=planted()><script>planted()</script></style></script><!--"
    "&lt;planted&gt;\n::error::planted\r\n\x1b]0;planted\x07\x1b[31m\x9b31m\u202e"
    "![p](http://planted/p.png)\\[p](javascript:planted())$\\frac{`|[bold]{{ 7 * 7 }}"
)
HARMLESS = "x" * len(HOSTILE)
KINDS = [kind.__name__ for kind in record_types()]


def of_kind(text: str, name: str) -> list[Record]:
    return [record for record in records(text) if type(record).__name__ == name]


def other_reports(text: str) -> list[Report]:
    """What is drawn of more than one record, or of what no file holds."""
    filler = Filler(text, variant=0)
    session, tuning = filler.record(Session), filler.record(Tuning)
    assert isinstance(session, Session)
    assert isinstance(tuning, Tuning)
    slide = filler.record(Slide)
    assert isinstance(slide, Slide)
    calibration = filler.record(Calibration)
    assert isinstance(calibration, Calibration)
    return [
        comparison_of(session, session),
        tune_report.report_of(tuning, (slide, slide)),
        calibration_report_of(calibration, text),
    ]


class Structure(HTMLParser):
    """Elements with the names of their attributes, those of charts apart: a chart's layout, and so
    the number of its parts, depends on the width of its labels."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, ...]] = []
        self.chart_elements: set[tuple[str, ...]] = set()
        self.source_documents: list[str] = []
        self._in_chart = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, *sorted(name for name, _ in attrs))
        self._in_chart |= tag == "svg"
        if self._in_chart:
            self.chart_elements.add(element)
        else:
            self.elements.append(element)
        self.source_documents += [value or "" for name, value in attrs if name == "srcdoc"]

    def handle_endtag(self, tag: str) -> None:
        self._in_chart &= tag != "svg"

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment",))


def check_structure(hostile: str, harmless: str) -> None:
    """The hostile page has the elements and attributes of the harmless one and nothing else."""
    left, right = Structure(hostile), Structure(harmless)
    assert left.elements == right.elements
    names = {name for _, *names in {*left.elements, *left.chart_elements} for name in names}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    tags = {tag for tag, *_ in left.chart_elements}
    assert tags <= {"svg", "g", "path", "text", "tspan", "defs", "use", "clippath", "rect", "title"}


@pytest.mark.parametrize("name", KINDS)
def test_a_page_keeps_its_structure_and_its_data(name: str, tmp_path: Path) -> None:
    for hostile, harmless in zip(of_kind(HOSTILE, name), of_kind(HARMLESS, name), strict=True):
        page = html(report_of(hostile), hostile)
        check_structure(page, html(report_of(harmless), harmless))
        assert page.count("<script>planted") == 0
        hostile.html(tmp_path / "page.html")
        written = msgspec.json.decode(data_of(tmp_path / "page.html"), type=type(hostile))
        assert written == msgspec.json.decode(msgspec.json.encode(hostile), type=type(hostile))


def test_reports_of_more_than_one_record_keep_their_structure() -> None:
    for hostile, harmless in zip(other_reports(HOSTILE), other_reports(HARMLESS), strict=True):
        check_structure(html(hostile), html(harmless))


@pytest.mark.parametrize("name", KINDS)
def test_a_notebook_holds_one_frame_and_the_page_in_it(name: str) -> None:
    hostile, harmless = (page_in_a_frame(of_kind(text, name)[0]) for text in (HOSTILE, HARMLESS))
    outer = Structure(hostile)
    assert outer.elements == [("iframe", "id", "sandbox", "srcdoc", "style", "title"), ("script",)]
    check_structure(outer.source_documents[0], Structure(harmless).source_documents[0])


@pytest.mark.parametrize("name", KINDS)
def test_markdown_holds_no_html_and_no_link(name: str) -> None:
    for record in of_kind(HOSTILE, name):
        text = markdown(report_of(record))
        assert Structure(text).elements == []
        code = r"^ *(`{3,})sh$.*?^ *\1$"  # where nothing is a link, a command's brackets included
        words = re.sub(code, "", text, flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"(?<!\\)(\\\\)*\[", words)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("width", [80, 140])
def test_a_console_gets_no_control_characters(name: str, width: int) -> None:
    for record in of_kind(HOSTILE, name):
        stream = io.StringIO()
        print_report(report_of(record), Console(file=stream, width=width, highlight=False))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", stream.getvalue())
        assert "planted" in stream.getvalue().replace("\n", "").replace(" ", "")


def test_annotations_stay_on_their_lines() -> None:
    for audit in of_kind(HOSTILE, "Audit"):
        assert isinstance(audit, Audit)
        for line in github_annotations(audit).split("\n"):
            assert line.startswith(("::warning file=", "::notice title=halftime audit::"))
            assert line.count("\r") == 0


@pytest.mark.browser
def test_nothing_of_it_runs_or_loads_in_a_browser(chromium, tmp_path: Path) -> None:
    reports = [report_of(of_kind(HOSTILE, name)[0]) for name in KINDS] + other_reports(HOSTILE)
    tab = chromium.new_page()
    events: list[str] = []
    tab.on("dialog", lambda dialog: events.append(dialog.message))
    tab.on("pageerror", lambda error: events.append(str(error)))
    tab.on("requestfinished", lambda request: events.append(request.url))
    tab.on("requestfailed", lambda request: events.append(f"{request.failure} {request.url}"))
    page = tmp_path / "page.html"
    for report in reports:
        page.write_text(html(report))
        events.clear()
        tab.goto(f"file://{page}")
        expected = (f"file://{page}", "data:", "csp ")  # an image that is none is stopped
        assert [event for event in events if not event.startswith(expected)] == []
        assert tab.evaluate("document.querySelectorAll('planted, [onerror]').length") == 0
    tab.close()


@pytest.mark.browser
def test_the_policy_stops_what_templates_would_let_through(chromium, tmp_path: Path) -> None:
    """A second lock: markup put into a page by hand neither runs nor loads."""
    page = tmp_path / "page.html"
    markup = (
        "<script>window.planted = 1</script><img src=x onerror='window.planted = 2'>"
        "<p id=styled style='color: red'>x</p><img src='http://127.0.0.1:9/p.png'>"
    )
    report = Report("t", "s", ())
    page.write_text(html(report).replace("</main>", f"{markup}</main>"))
    tab = chromium.new_page()
    failures: dict[str, str | None] = {}
    tab.on("requestfailed", lambda request: failures.update({request.url: request.failure}))
    tab.goto(f"file://{page}")
    assert tab.evaluate("window.planted") is None
    colour = tab.evaluate("getComputedStyle(document.querySelector('#styled')).color")
    assert colour != "rgb(255, 0, 0)"
    assert failures == {f"file://{tmp_path}/x": "csp", "http://127.0.0.1:9/p.png": "csp"}
    tab.close()


def test_data_for_scripts_is_json() -> None:
    session = Filler(HOSTILE, variant=0).record(Session)
    page = html(report_of(session), session)
    data = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert len(data) == 1
    assert json.loads(data[0])["pipeline"] == HOSTILE
