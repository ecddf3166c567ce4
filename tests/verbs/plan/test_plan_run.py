"""Plans: what fits, what is refused by name, and how near published peaks of memory are."""

from __future__ import annotations

import math

import pytest

from halftime.base.errors import BadInput
from halftime.records.gpus import gpu_named
from halftime.records.plan import DeploymentPlan, PlanRow
from halftime.report.registry import report_of
from halftime.verbs.forecast.constants import shipped
from halftime.verbs.forecast.host import CLASSES, class_of, host_named
from halftime.verbs.forecast.predict import uncalibrated
from halftime.verbs.forecast.prices import CONTEXT_BYTES
from halftime.verbs.forecast.run import forecast
from halftime.verbs.forecast.scenario import ForecastSettings
from halftime.verbs.plan.card import card_named
from halftime.verbs.plan.run import plan

GIB = 2**30


@pytest.fixture(scope="module")
def on_24gb() -> DeploymentPlan:
    return plan("flux-dev", "24GB")


def rows(result: DeploymentPlan) -> list[PlanRow]:
    return [*result.best, *result.others]


def test_the_best_fit_and_come_fastest_first(on_24gb: DeploymentPlan) -> None:
    assert len(on_24gb.best) == 3
    assert all(row.memory_bytes + CONTEXT_BYTES <= 24 * GIB for row in on_24gb.best)
    assert [row.seconds for row in on_24gb.best] == sorted(row.seconds for row in on_24gb.best)
    assert all(row.low < row.seconds < row.high for row in rows(on_24gb))


def test_what_does_not_fit_is_ruled_out_with_its_size(on_24gb: DeploymentPlan) -> None:
    why = {out.what: out.why for out in on_24gb.ruled_out}
    assert "the card has 24" in why["bf16, no offload"]
    assert why["fp8"] == "the RTX 3090 multiplies nothing in fp8"
    assert report_of(on_24gb).sections[0].title == "Best first"


# huggingface.co/datasets/derekl35/diffusers-quantization-benchmarks, and the README of
# sayakpaul/diffusers-torchao: torch.cuda.max_memory_allocated(), in GiB.
PEAKS = {
    ("bf16", "none"): 33.851,
    ("bf16", "model"): 23.271,
    ("int8-weights", "none"): 21.482,
    ("int8-weights", "model"): 12.189,
    ("nf4", "none"): 17.281,
}


@pytest.mark.parametrize(("precision", "offload"), list(PEAKS)[:2])
def test_peaks_of_flux_are_within_a_tenth_of_published_ones(precision: str, offload: str) -> None:
    weighed = rows(plan("flux-dev", "H100"))
    row = next(
        row
        for row in weighed
        if (row.precision, row.offload) == (precision, offload)
        and not row.compiled
        and not row.tiled
    )
    assert row.memory_bytes / GIB == pytest.approx(PEAKS[precision, offload], rel=0.10)


def test_two_cards_share_guidance_and_say_why_not(on_24gb: DeploymentPlan) -> None:
    two = plan("sd15", "RTX 4090", cards=2)
    assert {row.parallel for row in rows(two)} == {"none", "guidance"}
    assert "sequence parallelism" in {out.what for out in two.ruled_out}
    alone = min(row.seconds for row in rows(two) if row.parallel == "none")
    shared = min(row.seconds for row in rows(two) if row.parallel == "guidance")
    assert shared < alone


def test_a_target_out_of_reach_is_said() -> None:
    result = plan("sd15", "T4", target_seconds=0.001)
    assert not any(row.meets_target for row in result.best)
    assert "Nothing meets the target" in report_of(result).summary


def test_a_memory_is_a_card() -> None:
    assert card_named("20GB").gpu.memory_bytes == 20 * GIB
    assert "RTX 3090" in card_named("24GB").note
    assert card_named("H100").note == ""
    # what is measured of before what is not: the MI210 has 64 GB
    assert card_named("64GB").gpu.name == "H100-SXM"
    assert card_named("192GB").gpu.name == "MI300X"
    with pytest.raises(BadInput, match="up to 288 GB"):
        card_named("900GB")


def test_hosts_have_classes() -> None:
    names = ("T4", "A100-80GB", "H100-SXM", "RTX 4090")
    assert [class_of(gpu_named(name)) for name in names] == [
        "server",
        "server",
        "modern",
        "desktop",
    ]


@pytest.mark.parametrize("name", CLASSES)
def test_a_named_host_narrows_the_band(name: str) -> None:
    gpu = gpu_named("H100")
    assert (
        uncalibrated(gpu, shipped(), name).covariance[2, 2]
        < uncalibrated(gpu, shipped()).covariance[2, 2]
    )


def test_a_measured_host_is_that_cost() -> None:
    gpu, values = gpu_named("H100"), shipped().values
    host = host_named("7us", gpu, values)
    assert math.exp(host.effect) * values["dispatch"] * values["modern"] == pytest.approx(7e-6)
    for text in ("fast", "0us", "-1", "5000us", "nan"):
        with pytest.raises(BadInput, match="--host"):
            host_named(text, gpu, values)


def test_products_that_the_card_has_not_are_refused() -> None:
    with pytest.raises(BadInput, match="multiplies nothing in fp8"):
        forecast("flux-dev", "A100", settings=ForecastSettings(dtype="fp8", compiled=True))
    with pytest.raises(BadInput, match="fall back"):
        forecast("flux-dev", "A100", settings=ForecastSettings(dtype="int8"))


def test_kinds_of_quantisation_take_different_times() -> None:
    seconds = {
        name: forecast(
            "flux-dev", "H100", settings=ForecastSettings(dtype=name, compiled=True)
        ).total.seconds
        for name in ("bf16", "fp8", "int8-weights", "nf4")
    }
    assert seconds["fp8"] < seconds["bf16"] < seconds["int8-weights"]
