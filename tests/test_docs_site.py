"""`make docs`: the site builds strictly (every link and anchor), fetches nothing, and its reference
is the code's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from halftime.cli import VERBS

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    completed = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    return folder


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        fetched = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)', page.read_text()
        )
        assert fetched == [], page


def test_the_reference_is_the_codes(site: Path) -> None:
    cli = (site / "reference" / "cli.html").read_text()
    for verb in VERBS:
        assert f'id="halftime-{verb}"' in cli
    assert "--no-cold-start" in cli
    assert "wall_seconds" in (site / "reference" / "session.html").read_text()
    assert "halftime_queue_depth" in (site / "reference" / "metrics.html").read_text()
    assert "architecture" in (site / "reference" / "recipe.html").read_text()
    assert "images_per_prompt" in (site / "reference" / "workload.html").read_text()


def test_every_verb_is_in_the_menu(site: Path) -> None:
    home = (site / "index.html").read_text()
    missing = [
        verb
        for verb in VERBS
        if (ROOT / "docs" / f"{verb}.md").exists() and f'href="{verb}.html"' not in home
    ]
    assert missing == []


def test_the_search_works_from_the_disk(site: Path, chromium) -> None:
    page = chromium.new_page()
    page.goto(f"file://{site}/index.html?q=ledger")
    page.wait_for_selector(".md-search-result__item", state="attached", timeout=60_000)
    assert "ledger" in page.inner_text(".md-search-result__list").lower()
    page.close()


def test_a_phone_needs_no_sideways_scrolling(site: Path, chromium) -> None:
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    for name in ("index", "profile", "reference/cli", "troubleshooting"):
        page.goto(f"file://{site}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    page.close()
    assert [url for url in urls if not url.startswith("file://")] == []
