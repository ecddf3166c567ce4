"""The cheapest GPU for a picture within a target latency, given prices by the hour."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

from halftime.base.errors import BadFile
from halftime.base.store import read_bytes
from halftime.records.forecast import Price, StageForecast
from halftime.records.gpus import Gpu, gpu_named
from halftime.verbs.forecast.constants import Constants
from halftime.verbs.forecast.scenario import Scenario

# Whatever the model, the CUDA context and the allocator's slack take this much of a card, beside
# what torch.cuda.max_memory_allocated() says, which is what `memory_bytes` forecasts.
CONTEXT_BYTES = 0.8 * 2**30
Cost = Callable[[Scenario, Gpu, Constants], StageForecast]


def read_prices(path: Path | str) -> dict[str, float]:
    """GPU -> price an hour, from a TOML file with `[per_hour]`. Raises BadFile."""
    try:
        table = tomllib.loads(read_bytes(path).decode()).get("per_hour")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} is not TOML: {error}.") from error
    if not isinstance(table, dict) or not table:
        raise BadFile(f"{path} needs a table [per_hour] of GPU = price, for example A10G = 1.01.")
    bad = [
        name
        for name, price in table.items()
        if isinstance(price, bool) or not isinstance(price, int | float)
    ]
    if bad or min(table.values()) <= 0:
        raise BadFile(
            f"{path}: prices must be positive numbers; look at {', '.join(bad) or 'the smallest'}."
        )
    return {str(name): float(price) for name, price in table.items()}


def priced(
    scenario: Scenario,
    path: Path | str,
    target_seconds: float | None,
    constants: Constants,
    cost: Cost,
) -> tuple[Price, ...]:
    """Every GPU of the list: those that fit and meet the target first, by price per picture."""
    out = []
    for name, per_hour in read_prices(path).items():
        gpu = gpu_named(name)
        call = cost(scenario, gpu, constants)
        pictures = scenario.choice.batch
        out.append(
            Price(
                gpu=gpu.name,
                seconds=call.seconds / pictures,
                low=call.low / pictures,
                high=call.high / pictures,
                per_hour=per_hour,
                per_picture=per_hour / 3600 * call.seconds / pictures,
                meets_target=target_seconds is None or call.seconds <= target_seconds,
                fits=call.memory_bytes + CONTEXT_BYTES <= gpu.memory_bytes,
            )
        )
    return tuple(
        sorted(out, key=lambda price: (not (price.fits and price.meets_target), price.per_picture))
    )
