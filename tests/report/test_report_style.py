"""What a page looks like, as far as numbers say it: contrast from the style sheet, bars, faded
zeros, commands to copy, and a story that adds up."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from halftime.base.store import read_json
from halftime.fix.apply import choose, read_plan
from halftime.records import Finding, LedgerRow, Session, Workload
from halftime.records.environment import Environment
from halftime.records.tune import Tuning
from halftime.report.model import Column, Report, Section, Table, Text, is_nothing
from halftime.report.notebook import page_in_a_frame
from halftime.report.page import html
from halftime.report.session import command_of, report_of
from halftime.report.stacked import WIDTH, stacked_bars
from halftime.report.templates import asset
from halftime.report.tune import ladder_steps
from halftime.report.tune import report_of as tune_report

ROOT = Path(__file__).parents[2]
ENVIRONMENT = Environment(
    system="s", processor="p", cores=2, memory_bytes=1, threads=2, device="cpu", device_name="p"
)
PATIENT = 180_000  # ms: a failsafe; the machine may be busy
READABLE = 4.5  # WCAG 2.2, level AA
SERIES = [f"series-{number}" for number in range(1, 7)]

# ---- contrast


def themes() -> Iterator[dict[str, str]]:
    """The colours of each theme, by name: light, dark, and paper."""
    for block in re.findall(r":root \{(.*?)\}", asset("page.css"), re.DOTALL):
        yield dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", block))


def channels(colour: str) -> list[float]:
    digits = colour[1:] if len(colour) == 7 else "".join(c + c for c in colour[1:])
    return [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]


def luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], two: list[float]) -> float:
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mixed(one: str, two: str, share: float) -> list[float]:
    pairs = zip(channels(one), channels(two), strict=True)
    return [share * left + (1 - share) * right for left, right in pairs]


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark", "print"])
def test_every_text_can_be_read(theme: dict[str, str]) -> None:
    assert {"paper", "panel", "ink", "faint", "good", "warning", "bad", *SERIES} <= set(theme)
    for ground in ("paper", "panel"):
        for ink in ("ink", "faint", "good", "warning", "bad"):
            assert contrast(channels(theme[ink]), channels(theme[ground])) >= READABLE, (
                ink,
                ground,
            )
    for series in SERIES:  # names on the time line's bars are in the paper's colour
        assert contrast(channels(theme["paper"]), channels(theme[series])) >= READABLE, series
        flame = mixed(theme[series], theme["paper"], 0.45)
        assert contrast(channels(theme["ink"]), flame) >= READABLE, series
    parts = mixed(theme["ink"], theme["paper"], 0.72)
    assert contrast(parts, channels(theme["paper"])) >= READABLE


def test_the_styles_texts_are_in_colours_that_are_checked() -> None:
    colours = set(re.findall(r"[^-]color: ([^;]+);", asset("page.css")))
    named = {"ink", "faint", "good", "warning", "bad"}
    assert colours <= {
        *(f"var(--{name})" for name in named),
        "color-mix(in srgb, var(--ink) 72%, var(--paper))",
    }


# ---- tables


@pytest.mark.parametrize(
    ("text", "nothing"),
    [
        ("0 s", True),
        ("0.0 %", True),
        ("-0.0 %", True),
        ("-", True),
        ("0", True),
        ("0.00x", True),
        ("0.1 %", False),
        ("100 ms", False),
        ("0.04 s", False),
        ("no", False),
    ],
)
def test_zeros_are_known(text: str, nothing: bool) -> None:
    assert is_nothing(text) is nothing


def test_a_share_has_a_bar_as_long_as_it_and_a_zero_is_faded() -> None:
    table = Table(
        (Column("stage"), Column("share", "share"), Column("spread", "share", bar=False)),
        (("a", 0.214, 0.5), ("b", 0.0, None), ("c", -0.01, 0.1), ("d", 1.7, 0.1)),
    )
    page = html(Report("t", "s", (Section("x", (table,)),)))
    assert re.findall(r'<svg class="bar".*?<rect width="([\d.]+)"', page) == [
        "21.4",
        "0.0",
        "0.0",
        "100.0",
    ]
    assert page.count('class="number nothing"') == 2


def test_a_folded_section_is_closed_until_it_is_opened() -> None:
    sections = (Section("a", (Text("x"),)), Section("b", (Text("y"),), folded=True))
    page = html(Report("t", "s", sections))
    assert page.count("<details>") == page.count("</details>") == 1
    assert page.index("<h2>a") < page.index("<details>") < page.index("<h2>b")


# ---- findings


def a_session(**changes: object) -> Session:
    finding = Finding(id="vae-fp32", stage="vae_decode", message="m", fix="vae-dtype")
    values: dict[str, object] = {
        "wall_seconds": 1.0,
        "model": "my models/sdxl",
        "workload": Workload(steps=12, width=512, height=768),
        "environment": ENVIRONMENT,
        "findings": (finding,),
        **changes,
    }
    return Session(**values)  # type: ignore[arg-type]


def test_each_fix_has_its_command() -> None:
    session = a_session()
    command = command_of(session, session.findings[0])
    assert command == (
        "printf '[[fixes]]\\nname = \"vae-dtype\"\\n' > vae-dtype.toml\n"
        "halftime profile 'my models/sdxl' --steps 12 --size 512x768 --recipe vae-dtype.toml"
    )
    assert '<div class="command"><pre><code>printf' in html(report_of(session))
    python = 'halftime.applied(pipeline, ["vae-dtype"])'
    assert command_of(a_session(kind="trace"), session.findings[0]) == python
    assert command_of(a_session(notes=("called from Python: …",)), session.findings[0]) == python
    assert command_of(session, Finding(id="x", stage="s", message="m")) == ""


def test_a_command_loads_what_was_measured() -> None:
    workload = Workload(
        steps=2,
        guidance=1.0,
        dtype="bfloat16",
        lora=("a.safetensors:0.5", "b"),
        image=("in 1.png",),
        custom_pipeline="mine.py",
        arguments={"num_frames": 9, "output_type": "pt"},
    )
    session = a_session(model="bundled emoji-xl", workload=workload)
    assert command_of(session, session.findings[0]).splitlines()[1] == (
        "halftime profile --steps 2 --guidance 1.0 --dtype bfloat16 --image 'in 1.png' "
        "--custom-pipeline mine.py --lora a.safetensors:0.5 --lora b --set num_frames=9 "
        "--set output_type=pt --recipe vae-dtype.toml"
    )
    in_place = a_session(model="FluxPipeline", pipeline="FluxPipeline")
    assert command_of(in_place, session.findings[0]).startswith("halftime.applied(pipeline")


def test_the_command_of_a_finding_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session = a_session()
    written = command_of(session, session.findings[0]).splitlines()[0]
    subprocess.run(written, shell=True, check=True)
    assert [chosen.fix.name for chosen in choose(read_plan(tmp_path / "vae-dtype.toml"))] == [
        "vae-dtype"
    ]


# ---- the page of tune


@pytest.fixture(scope="module")
def tuning() -> Tuning:
    return read_json(ROOT / "benchmarks" / "results" / "tune" / "tune.json", Tuning)


def test_the_kept_rows_multiply_to_the_whole(tuning: Tuning) -> None:
    steps = ladder_steps(tuning)
    assert [step.rung.fix for step in steps] == [rung.fix for rung in tuning.ladder if rung.kept]
    assert math.prod(step.share for step in steps) == pytest.approx(tuning.speedup)
    assert steps[-1].seconds == pytest.approx(tuning.tuned_seconds)
    seconds = [tuning.baseline_seconds, *(step.seconds for step in steps)]
    assert seconds == sorted(seconds, reverse=True)
    assert [step.measured for step in steps] == [2.39, 1.08, 1.03, 1.03]  # as the file's words


def test_new_rungs_need_no_words(tuning: Tuning) -> None:
    ladder = tuple(
        replace(rung, gain=1.5 if rung.kept else 0.9, gain_low=1.4, gain_high=1.6, why="")
        for rung in tuning.ladder
    )
    steps = ladder_steps(replace(tuning, ladder=ladder, speedup=1.5**4))
    assert [step.share for step in steps] == pytest.approx([1.5] * 4)


def test_no_ladder_without_a_speedup(tuning: Tuning) -> None:
    assert ladder_steps(replace(tuning, speedup=0.98)) == ()


def test_tunes_story_comes_before_its_evidence(tuning: Tuning) -> None:
    titles = {section.title: section.folded for section in tune_report(tuning).sections}
    assert list(titles)[:3] == ["Result", "Before and after, by stage", "Ladder"]
    assert all(folded for title, folded in titles.items() if title not in list(titles)[:3])


def test_bars_are_as_long_as_their_stages() -> None:
    rows = [
        LedgerRow(stage="denoise", seconds=0.6, share=0.6),
        LedgerRow(stage="vae_decode", seconds=0.2, share=0.2),
        LedgerRow(stage="unexplained", seconds=-0.01, share=0.0),
    ]
    half = [LedgerRow(stage="denoise", seconds=0.4, share=1.0)]
    drawn = stacked_bars({"before": rows, "after": half})
    widths = [float(width) for width in re.findall(r'width="([\d.]+)"', drawn.markup)]
    assert widths == pytest.approx([0.75 * WIDTH, 0.25 * WIDTH, 0.0, 0.5 * WIDTH])
    assert drawn.fallback == "before 800 ms; after 400 ms"


# ---- in a browser


@pytest.mark.browser
def test_a_wide_table_says_so_on_a_phone_and_not_on_a_desk(
    chromium, tuning: Tuning, tmp_path: Path
) -> None:
    path = tmp_path / "tune.html"
    path.write_text(html(tune_report(tuning)))
    for width, shown in ((400, True), (1280, False)):
        tab = chromium.new_page(viewport={"width": width, "height": 800})
        tab.set_default_timeout(PATIENT)
        tab.goto(f"file://{path}")
        hints = tab.locator(".scroll-hint").first
        hints.wait_for(state="visible" if shown else "hidden")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("document.documentElement.scrollHeight") < 2600
        tab.close()


@pytest.mark.browser
def test_a_command_is_copied(chromium, tmp_path: Path) -> None:
    path = tmp_path / "p.html"
    path.write_text(html(report_of(a_session())))
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    tab.set_default_timeout(PATIENT)
    tab.goto(f"file://{path}")
    tab.get_by_role("button", name="copy").click()
    tab.get_by_role("button", name="copied").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()").startswith("printf '[[fixes]]")
    context.close()


@pytest.mark.browser
def test_a_notebooks_frame_is_as_high_as_its_page(chromium, tuning: Tuning, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(
        f"<!doctype html><body>{page_in_a_frame(tuning)}{page_in_a_frame(tuning)}</body>"
    )
    tab = chromium.new_page(viewport={"width": 900, "height": 800})
    tab.set_default_timeout(PATIENT)
    tab.goto(f"file://{path}")
    height = "[...document.querySelectorAll('iframe')].map(f => f.getBoundingClientRect().height)"
    guess = [float(text) for text in re.findall(r"height: (\d+)px", path.read_text())]
    tab.wait_for_function(f"({height}).every(h => ![{guess[0]}].includes(h))")
    first, second = tab.evaluate(height)
    frame = tab.frames[1]
    content = frame.evaluate("document.documentElement.getBoundingClientRect().height")
    assert first == second == math.ceil(content)
    assert 0.6 < guess[0] / content < 1.6  # where no script runs, it is near
    tab.close()
