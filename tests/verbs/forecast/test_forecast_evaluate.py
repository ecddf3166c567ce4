"""Rows, evaluation and calibration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from halftime.base.errors import BadFile, BadInput
from halftime.records.gpus import gpu_named
from halftime.verbs.forecast.calibrate import calibrated, calibrated_by, forget_host
from halftime.verbs.forecast.constants import shipped
from halftime.verbs.forecast.evaluate import banded, evaluate
from halftime.verbs.forecast.predict import Effects, total_seconds, uncalibrated
from halftime.verbs.forecast.rows import parse_part, read_rows, works_of

DATA = Path(__file__).parents[3] / "workshop" / "forecast"
HEADER = "id,gpu,host,kind,steps,parts,milliseconds,source\n"
UNET = "sd15_unet:batch=2:px=512:dtype=fp16:eager:sdpa:x1"


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def write(folder: Path, *lines: str) -> Path:
    path = folder / "rows.csv"
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return path


def test_a_part_in_full() -> None:
    part = parse_part("wan:batch=2:px=832x480:frames=81:dtype=bf16:compile:math:x50")
    assert part.component == "wan21_1_3b"
    assert (
        part.traced.geometry.width,
        part.traced.geometry.height,
        part.traced.geometry.frames,
    ) == (832, 480, 81)
    assert part.compiled
    assert part.times == 50
    assert part.traced.attention == "math"
    assert parse_part("wan:batch=1:px=480").traced.geometry.frames == 81
    assert parse_part("sdxl_unet:batch=1:px=480").traced.geometry.frames == 1
    assert parse_part("clip_l:batch=1:px=77:dtype=fp16:eager:sdpa:x2").traced.geometry.tokens == 77


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dreams:batch=1", "component 'dreams' is not built in"),
        ("sd15_unet:dtype=fp3", "dtype 'fp3' is not known"),
        ("sd15_unet:batch=1:px=512:warp", "'warp'"),
        ("sd15_unet:px=0", "not a size"),
    ],
)
def test_a_part_that_is_not_understood(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_part(text)


def test_odd_rows_are_told_and_never_fatal(tmp_path: Path) -> None:
    report = evaluate(
        write(
            tmp_path,
            f"good,RTX4090,h,step,1,{UNET},25,s",
            f"gpu,Voodoo 2,h,step,1,{UNET},25,s",
            "component,T4,h,step,1,dreams:batch=1:px=512:dtype=fp16:eager:sdpa:x1,25,s",
            f"kind,T4,h,guess,1,{UNET},25,s",
            f"time,T4,h,step,1,{UNET},-3,s",
            f"text,T4,h,step,1,{UNET},fast,s",
            "empty,T4,h,step,1,,25,s",
            "size,T4,h,step,1,sd3_medium:batch=2:px=8192:dtype=fp16:eager:sdpa:x1,25,s",
        )
    )
    assert [row.id for row in report.rows] == ["good"]
    assert {row.id for row in report.not_evaluated} == {
        "gpu",
        "component",
        "kind",
        "time",
        "text",
        "empty",
        "size",
    }
    assert all(row.reason for row in report.not_evaluated)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(BadFile, match="lacks the columns"):
        read_rows(path)
    with pytest.raises(BadFile, match="cannot read"):
        read_rows(tmp_path / "absent.csv")


def test_only_the_first_row_of_a_gpu_calibrates(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"a,T4,h,step,1,{UNET},150,s",
        f"b,T4,h,step,1,{UNET},150,s",
        f"c,L4,h,step,1,{UNET},60,s",
    )
    report = evaluate(path, "one-per-gpu")
    assert report.calibration_rows == ("a", "c")
    assert report.overall is not None
    assert report.overall.rows == 1
    assert [row.error is None for row in report.rows] == [True, False, True]


def test_the_published_rows_are_within_the_bars() -> None:
    """These rows were fitted on: a guard against breaking the model, not a measure of it (see
    docs/forecast.md)."""
    report = evaluate(DATA / "published_latency.csv")
    assert report.overall is not None
    assert report.overall.median < 0.08
    assert report.overall.p90 < 0.20
    assert report.ordering is not None
    assert report.ordering > 0.97
    assert report.floor_above_measurement == 0
    assert not report.not_evaluated


def test_calibration_finds_a_machine_that_is_slower_by_a_known_factor() -> None:
    machine = uncalibrated(gpu_named("L4"), shipped())
    truth = Effects(compute=-0.3, memory=0.0, host=0.0)
    rows, _ = read_rows(DATA / "published_latency.csv")
    works = [works_of(row) for row in rows[:6]]

    def seconds(index: int) -> float:
        return total_seconds(works[index], machine.gpu, machine.constants, truth)

    observations = [
        ((lambda e, w=w: total_seconds(w, machine.gpu, machine.constants, e)), seconds(i))
        for i, w in enumerate(works)
    ]
    after = calibrated(machine, observations, "a test")
    for i, work in enumerate(works):
        before = abs(total_seconds(work, machine.gpu, machine.constants) / seconds(i) - 1)
        now = abs(
            total_seconds(work, machine.gpu, machine.constants, after.effects) / seconds(i) - 1
        )
        assert now < before / 3
    assert (after.covariance.diagonal() <= machine.covariance.diagonal() + 1e-12).all()


def test_a_card_whose_maker_nobody_measured_has_no_band_of_measurements() -> None:
    measured, listed, foreign = (
        uncalibrated(gpu_named(name), shipped()) for name in ("H100", "B200", "AMD Instinct MI300X")
    )
    assert "published measurements" in measured.calibrated_on
    assert "no measurement of it" in listed.calibrated_on
    assert "no card of its maker was measured" in foreign.calibrated_on
    spreads = [machine.covariance[0, 0] for machine in (measured, listed, foreign)]
    assert spreads[0] < spreads[1] < spreads[2]


def test_a_calibrated_band_is_narrower_and_another_host_widens_it() -> None:
    rows, _ = read_rows(DATA / "published_latency.csv")
    row = next(row for row in rows if row.gpu == "L20")
    machine = uncalibrated(gpu_named("L4"), shipped())
    after = calibrated_by(machine, [row])

    def width(m: object) -> float:
        _, low, high = banded(works_of(row), m)  # type: ignore[arg-type]
        return high / low

    assert width(after) < width(machine)
    assert width(forget_host(after, shipped())) >= width(after)
