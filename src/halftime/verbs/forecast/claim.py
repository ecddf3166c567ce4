"""Is a claimed number possible at all?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from halftime.base import units
from halftime.base.errors import BadInput
from halftime.base.units import parse_seconds
from halftime.records.forecast import ClaimVerdict, StageForecast
from halftime.records.gpus import Gpu


def parse_claim(text: str) -> tuple[str, float]:
    """'denoise=2700ms' -> ('denoise', 2.7). Raises BadInput."""
    stage, equals, duration = text.partition("=")
    if not equals:
        raise BadInput(
            f"--claim {text!r} is not STAGE=DURATION, for example --claim denoise=2700ms."
        )
    return stage.strip(), parse_seconds(duration)


def judge(
    claim: tuple[str, float], rows: Sequence[StageForecast], gpu: Gpu, dtype: str
) -> ClaimVerdict:
    """Impossible under the floor, implausible below the band, otherwise possible.

    Raises BadInput if there is no such stage.
    """
    stage, claimed = claim
    row = next((row for row in rows if row.stage == stage), None)
    if row is None:
        raise BadInput(
            f"--claim names {stage!r}; the stages are: {', '.join(row.stage for row in rows)}."
        )
    rate = max(
        (gpu.peak[name] for name in (dtype, "tf32", "fp32") if name in gpu.peak),
        default=gpu.peak["fp32"],
    )
    arithmetic = (
        f"{units.flops(row.flops)} in {units.seconds(claimed)} would be "
        f"{units.flops_per_second(row.flops / claimed)}; "
        f"the {gpu.name}'s peak is {units.flops_per_second(rate)}. Floor "
        f"{units.seconds(row.floor_seconds)}, "
        f"forecast {units.seconds(row.seconds)} ({units.seconds(row.low)} to "
        f"{units.seconds(row.high)})"
    )
    return ClaimVerdict(
        stage=stage, claimed_seconds=claimed, verdict=_verdict(claimed, row), arithmetic=arithmetic
    )


def _verdict(
    claimed: float, row: StageForecast
) -> Literal["possible", "implausible", "impossible"]:
    if claimed < row.floor_seconds:
        return "impossible"
    return "implausible" if claimed < row.low else "possible"
