"""Pages on paper and on a phone: light whatever the reader's theme, nothing cut off at the
right."""

from __future__ import annotations

from pathlib import Path

import pytest

import halftime
from halftime.records import Workload
from halftime.report.page import html
from halftime.report.session import report_of
from tiny_pipelines import PIPELINES

A4 = {"width": 718, "height": 1000}  # CSS pixels between margins of 1 cm


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = halftime.profile(
        PIPELINES["sdxl"].build(), Workload(steps=3, width=32, height=32), runs=2
    )
    path = tmp_path_factory.mktemp("page") / "p.html"
    path.write_text(html(report_of(made), made))
    return path


def test_a_page_stays_small(page: Path) -> None:
    assert page.stat().st_size < 3_000_000


@pytest.mark.slow
def test_printing_from_a_dark_screen(chromium, page: Path) -> None:
    tab = chromium.new_page(viewport=A4, color_scheme="dark")
    tab.goto(f"file://{page}")
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("document.documentElement.scrollWidth") <= A4["width"]
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert (
        tab.evaluate("getComputedStyle(document.querySelector('.warning')).color")
        == "rgb(138, 90, 0)"
    )
    assert (
        tab.evaluate("getComputedStyle(document.querySelector('.timeline-tools')).display")
        == "none"
    )
    widest = (
        "Math.max(...[...document.querySelectorAll('table')].map(t => "
        "t.getBoundingClientRect().right))"
    )
    assert tab.evaluate(widest) <= A4["width"]
    tab.emulate_media(media="screen")
    assert tab.pdf(format="A4")[:4] == b"%PDF"
    tab.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_of_the_page(chromium, page: Path, scheme: str) -> None:
    tab = chromium.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    tab.goto(f"file://{page}")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert float(tab.evaluate("getComputedStyle(document.body).fontSize").removesuffix("px")) >= 15
    tab.close()
