"""The page in a real Chromium: drawing, previews, timings, gallery, keyboard, phone, and what goes
wrong."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from serve_fake import ENDLESS, Running, serving, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PHONE = {"width": 390, "height": 844}
NARROW = {"width": 320, "height": 640}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(step_seconds=0.03) as server:
        yield server


@pytest.fixture
def page(chromium, running: Running) -> Iterator:
    yield from opened(chromium, running)


def opened(chromium, running: Running, **settings: object) -> Iterator:
    """The page when it is ready; no error, and nothing asked of any other host."""
    context = chromium.new_context(**settings)
    context.set_default_timeout(60_000)
    new_page = context.new_page()
    faults: list[str] = []
    new_page.on("pageerror", lambda error: faults.append(str(error)))
    new_page.on(
        "console",
        lambda message: faults.append(message.text) if "Content Security" in message.text else None,
    )
    new_page.on(
        "request",
        lambda request: faults.append(request.url) if not request.url.startswith(own) else None,
    )
    own = (running.address, "data:", "blob:")
    new_page.goto(running.address)
    new_page.wait_for_selector("#state[data-state=ready]")
    try:
        yield new_page
        assert not faults
    finally:
        context.close()


def drawn(page) -> None:
    page.wait_for_selector("#frame[data-phase=final]")
    page.wait_for_selector("#draw:not([disabled])")


def test_a_picture_refines_from_previews_and_its_times_add_up(page, running: Running) -> None:
    page.fill("#prompt", "a green kite")
    page.get_by_label("96 × 64").check()
    page.get_by_label("12", exact=True).check()
    page.fill("#seed", "41")
    page.evaluate(CAPTIONS)
    page.click("#draw")
    drawn(page)
    captions = page.evaluate("window.captions")
    assert any(re.fullmatch(r"Preview at step \d+ of 12\.", caption) for caption in captions)
    job = running.engine.jobs[-1]
    assert (job.prompt, job.width, job.height, job.steps, job.seed, job.previews) == (
        "a green kite",
        96,
        64,
        12,
        41,
        3,
    )
    assert page.inner_text("#caption") == "96 × 64, 12 steps, seed 41"
    assert page.get_attribute("#picture", "alt") == "a green kite"
    assert page.evaluate("document.getElementById('picture').naturalWidth") == 96
    legend = page.inner_text("#legend")
    assert all(
        stage in legend
        for stage in (
            "in the queue",
            "text encoders",
            "denoising",
            "VAE decode",
            "writing the file",
        )
    )
    shares = [float(text) for text in re.findall(r"([\d.]+) %", legend)]
    assert sum(shares) == pytest.approx(100, abs=1.5)
    widths = page.evaluate(
        "[...document.querySelectorAll('#bar i')].map((each) => each.offsetWidth)"
    )
    assert len(widths) == len(shares)
    assert widths[2] / sum(widths) == pytest.approx(shares[2] / 100, abs=0.03)


# Every caption that stood there, however short.
CAPTIONS = """() => {
  window.captions = [];
  const caption = document.getElementById("caption");
  new MutationObserver(() => window.captions.push(caption.textContent))
    .observe(caption, { childList: true, characterData: true, subtree: true });
}"""


def test_the_keyboard_is_enough(page, running: Running) -> None:
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")
    drawn(page)
    page.fill("#seed", "7")
    page.keyboard.press("Enter")  # in a field
    page.locator("#wall button").nth(1).wait_for()
    drawn(page)
    page.focus("#wall button")
    page.keyboard.press("ArrowRight")
    seeds = [job.seed for job in running.engine.jobs[-2:]]
    assert page.inner_text("#caption").endswith(f"seed {seeds[0]}")
    page.keyboard.press("Home")
    assert page.inner_text("#caption").endswith("seed 7")
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"


def test_escape_stops_a_picture(page, running: Running) -> None:
    before = running.engine.status.cancelled
    page.fill("#prompt", ENDLESS)
    page.click("#draw")
    page.wait_for_selector("#frame[data-phase=preview]")
    page.keyboard.press("Escape")
    page.get_by_text("Stopped.", exact=True).wait_for()
    assert page.is_enabled("#draw")
    wait_until(lambda: running.engine.status.cancelled == before + 1)


def test_settings_of_a_picture_can_be_taken_up_again(page) -> None:
    page.fill("#negative", "blur")
    page.click("#draw")
    drawn(page)
    seed = page.inner_text("#caption").split()[-1]
    page.fill("#prompt", "another")
    page.fill("#negative", "")
    page.click("#again")
    assert page.input_value("#prompt") != "another"
    assert (page.input_value("#seed"), page.input_value("#negative")) == (seed, "blur")
    with page.expect_download() as saved:
        page.click("#save")
    assert saved.value.suggested_filename == f"halftime-{seed}.png"


def test_several_pictures_in_another_format(page, running: Running) -> None:
    page.fill("#n", "3")
    page.fill("#seed", "20")
    page.select_option("#format", "webp")
    page.click("#draw")
    page.locator("#wall button").nth(2).wait_for()
    drawn(page)
    assert [job.seed for job in running.engine.jobs[-3:]] == [20, 21, 22]
    with page.expect_download() as saved:
        page.click("#save")
    assert saved.value.suggested_filename.endswith(".webp")
    assert Image.open(saved.value.path()).format == "WEBP"


def test_a_picture_to_start_from(page, running: Running, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "it's red.png")
    page.set_input_files("#file", tmp_path / "it's red.png")
    page.locator("#source").wait_for()
    page.fill("#strength", "0.75")
    page.click("#draw")
    drawn(page)
    job = running.engine.jobs[-1]
    assert job.image is not None
    assert job.strength == 0.75
    page.click("#unchoose")
    page.click("#draw")
    drawn(page)
    assert running.engine.jobs[-1].image is None


def test_pictures_survive_a_reload_until_they_are_forgotten(chromium, running: Running) -> None:
    for page in opened(chromium, running):
        for seed in ("5", "6"):
            page.fill("#seed", seed)
            page.click("#draw")
            drawn(page)
        page.reload()
        page.wait_for_selector("#frame[data-phase=final]")
        assert page.locator("#wall button").count() == 2
        assert page.inner_text("#caption").endswith("seed 6")
        assert page.evaluate("document.getElementById('picture').naturalWidth") == 64
        page.locator("#wall button").nth(1).click()
        page.click("#again")
        assert page.input_value("#seed") == "5"
        page.click("#forget")
        page.reload()
        page.wait_for_selector("#state[data-state=ready]")
        assert page.locator("#wall button").count() == 0


PROMPT = """it's a "kite" \\ $HOME `id` ü🍎"""


def test_the_request_as_code_does_what_the_page_does(
    page, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run as it stands, quotes and all."""
    monkeypatch.chdir(tmp_path)
    page.fill("#prompt", PROMPT)
    page.fill("#seed", "77")
    page.fill("#n", "2")
    page.get_by_label("96 × 64").check()
    page.click("#code summary")
    command = page.text_content("#snippet")
    assert "Authorization" not in command
    answer = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert b'"seed":78' in answer.stdout
    page.get_by_label("Python").check()
    exec(compile(page.text_content("#snippet"), "snippet", "exec"), {})
    jobs = running.engine.jobs[-4:]
    asked = {(job.prompt, job.width, job.steps) for job in jobs}
    assert asked == {(PROMPT, 96, 8)}
    assert [job.seed for job in jobs] == [77, 78] * 2
    assert Image.open(tmp_path / "halftime-77.png").size == (96, 64)


def test_an_edit_as_code(
    page, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("it's.png")
    page.fill("#prompt", "@file")
    page.set_input_files("#file", tmp_path / "it's.png")
    page.locator("#source").wait_for()
    page.click("#code summary")
    command = page.text_content("#snippet")
    subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    page.get_by_label("Python").check()
    exec(compile(page.text_content("#snippet"), "snippet", "exec"), {})
    jobs = running.engine.jobs[-2:]
    assert [(job.prompt, job.strength) for job in jobs] == [("@file", 0.6)] * 2
    assert all(job.image for job in jobs)
    assert shlex.split(command)[0] == "curl"


def test_what_goes_wrong_is_said(page) -> None:
    page.fill("#prompt", "fail crashed")
    page.click("#draw")
    page.wait_for_selector("#said:not(:empty)")
    assert page.inner_text("#said") == "The worker died."
    assert page.is_enabled("#draw")


def test_the_certificate_is_a_click_away(page) -> None:
    page.click("#state summary")
    certificate = page.inner_text("#certificate")
    assert "FakePipeline" in certificate
    assert "64 × 64, 96 × 64" in certificate


@pytest.mark.parametrize(("scheme", "size"), [("light", PHONE), ("dark", PHONE), ("light", NARROW)])
def test_a_phone_needs_no_sideways_scrolling_and_has_room_for_fingers(
    chromium, running: Running, scheme: str, size: dict
) -> None:
    for page in opened(chromium, running, viewport=size, color_scheme=scheme, has_touch=True):
        page.tap("#code summary")
        page.tap("#draw")
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
        assert page.locator("#draw").bounding_box()["height"] >= 44
        assert page.locator("#frame").bounding_box()["width"] > 0.85 * size["width"]
        # the frame scrolls into view
        page.wait_for_function("frame.getBoundingClientRect().top < innerHeight")


def test_text_has_contrast_in_both_schemes(chromium, running: Running) -> None:
    for scheme in ("light", "dark"):
        for page in opened(chromium, running, color_scheme=scheme):
            page.click("#draw")
            drawn(page)
            for selector in (
                "#caption",
                ".name",
                "#legend em",
                "#draw",
                "#state-text",
                "#again",
                ".note",
                "#snippet",
                "#file-name",
            ):
                assert page.evaluate(CONTRAST, selector) >= 4.5, (scheme, selector)


# WCAG's contrast ratio of an element's text with the nearest background that is painted.
CONTRAST = """(selector) => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const element = document.querySelector(selector);
  let behind = element, colour;
  do { colour = parse(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; }
  while (behind && colour.length === 4 && colour[3] === 0);
  const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(colour)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


def test_a_key_is_asked_for_and_kept_in_the_page(chromium) -> None:
    with serving(api_keys=("secret",)) as running:
        for page in opened(chromium, running):
            page.click("#draw")
            page.fill("#key", "secret")
            page.keyboard.press("Enter")
            drawn(page)
            assert page.evaluate("localStorage.length + sessionStorage.length") == 0


def test_a_server_that_warms_up_says_so_and_then_offers(chromium) -> None:
    with serving(ready=False) as running:
        page = chromium.new_page()
        try:
            page.goto(running.address)
            page.wait_for_selector("#state[data-state=starting]")
            running.release()
            page.wait_for_selector("#state[data-state=ready]")
            assert page.locator("#sizes input").count() == 2
        finally:
            page.close()
