"""Reports are functions of data: the same session on a console, as markdown, and as a page in a
real browser."""

from __future__ import annotations

import io
import re

import pytest
from markupsafe import Markup
from rich.console import Console

import halftime
from halftime.base.stats import Interval
from halftime.records import ColdStart, CompileReport, Recompile, Session, Workload
from halftime.records.environment import NOT_RECORDED
from halftime.report.charts import SERIES, figure, svg
from halftime.report.comparison import comparison_of, verdict
from halftime.report.console import print_report
from halftime.report.markdown import markdown
from halftime.report.model import (
    Bullets,
    Column,
    Entries,
    Entry,
    Html,
    Report,
    Section,
    Table,
    Text,
)
from halftime.report.page import html
from halftime.report.session import report_of
from tiny_pipelines import PIPELINES


@pytest.fixture(scope="module")
def session() -> Session:
    import msgspec

    measured = halftime.profile(
        PIPELINES["sdxl"].build(), Workload(steps=6, width=32, height=32), runs=3
    )
    compiled = CompileReport(
        compiled=("unet",),
        graphs=2,
        recompiles=(Recompile(where="a.py:1 forward", reason="the size of <x> changed"),),
        after_warmup=1,
    )
    cold = ColdStart(
        process_seconds=9,
        import_seconds=3,
        load_seconds=2,
        first_call_seconds=1,
        first_call=measured.ledger,
    )
    return msgspec.structs.replace(
        measured, compilation=compiled, cold_start=cold, notes=("a note",)
    )


def console_text(report: Report, width: int = 80) -> str:
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_console_fits_and_needs_no_colour(session: Session, width: int) -> None:
    text = console_text(report_of(session), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    for word in (
        "encode_prompt",
        "denoise",
        "vae_decode",
        "unexplained",
        "wall clock",
        "Cold start",
        "a note",
    ):
        assert word in text


def test_the_first_line_names_the_device(session: Session) -> None:
    import msgspec

    environments = {
        "cpu": {"device": "cpu", "device_name": "AMD EPYC"},
        "cuda:1 (NVIDIA H200)": {"device": "cuda:1", "device_name": "NVIDIA H200"},
        "cuda": {"device": "cuda", "device_name": NOT_RECORDED},
    }
    for place, fields in environments.items():
        environment = msgspec.structs.replace(session.environment, **fields)
        title = report_of(msgspec.structs.replace(session, environment=environment)).title
        assert title.startswith(f"StableDiffusionXLPipeline on {place}: where")


def test_markdown_is_a_table_that_adds_up(session: Session) -> None:
    text = markdown(report_of(session))
    assert "| **wall clock** |" in text
    assert "100.0 %" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_pipes_in_cells_do_not_break_a_markdown_table() -> None:
    table = Table((Column("a"), Column("b", "share")), (("x|y", 0.5),))
    assert markdown(Report("t", "s", (Section("S", (table,)),))).count("\\|") == 1


def test_markup_in_data_is_text_everywhere() -> None:
    blocks = (
        Text("<b>[red]x[/red]</b>", "warning"),
        Bullets((Text("<i>"),)),
        Entries((Entry("<t>", "[bold]", "<u>"),)),
        Table((Column("<c>"),), (("<d>",),)),
        Html(Markup("<svg></svg>"), fallback="a picture"),
    )
    report = Report("<title>", "[bold]s", (Section("<s>", blocks),))
    page = html(report)
    assert not re.search(r"<(b|i|u|t|c|d|s)>", page)
    assert "<svg></svg>" in page
    text = console_text(report)
    assert "[red]x[/red]" in text
    assert "a picture" in text


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(
    session: Session, chromium, tmp_path, scheme: str, width: int
) -> None:
    path = tmp_path / "report.html"
    path.write_text(html(report_of(session)))
    assert path.stat().st_size < 1_000_000
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    page.on(
        "request",
        lambda request: (
            problems.append(request.url) if request.url[:5] not in ("file:", "data:") else None
        ),
    )
    page.goto(f"file://{path}")

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("table").first.inner_text().count("denoise\t") == 1
    bars = page.locator(".timeline-chart rect")
    before = bars.count()
    assert before >= 2 * 6
    box = page.locator(".timeline-chart").bounding_box()
    assert box
    assert box["width"] > 0.9 * min(width, 900) - 40
    page.locator(".timeline-chart").focus()
    for _ in range(6):
        page.keyboard.press("+")
    page.wait_for_timeout(400)
    assert bars.count() < before  # zoomed in: spans outside of the view are gone
    page.get_by_role("button", name="first call").click()
    page.wait_for_timeout(100)
    assert bars.count() >= 12
    assert problems == []
    shot = page.screenshot(full_page=True)
    assert len(shot) > 20_000
    context.close()


@pytest.mark.browser
def test_the_page_prints(session: Session, chromium, tmp_path) -> None:
    path = tmp_path / "report.html"
    path.write_text(html(report_of(session)))
    page = chromium.new_page()
    page.goto(f"file://{path}")
    assert page.pdf()[:5] == b"%PDF-"
    page.close()


def test_a_comparison_says_what_noise_allows(session: Session) -> None:
    text = console_text(comparison_of(session, session))
    assert "no difference beyond noise" in text
    assert "faster" in verdict(Interval(2.0, 1.9, 2.1))
    assert "slower" in verdict(Interval(0.5, 0.4, 0.6))


def test_charts_take_the_pages_colours_and_are_reproducible() -> None:
    def draw() -> str:
        with figure() as drawn:
            axes = drawn.subplots()
            axes.plot([1, 2], [3, 4], color=SERIES[1], label="a")
            axes.legend()
            return svg(drawn, 'a "chart"')

    first = draw()
    assert first == draw()
    assert "var(--series-2)" in first
    assert "var(--ink)" in first
    assert "#0102" not in first
    assert 'aria-label="a &quot;chart&quot;"' in first
    assert not re.search(r'<svg[^>]* width="', first)
