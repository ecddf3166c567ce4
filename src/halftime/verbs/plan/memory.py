"""Peak memory of a card under each setup, as torch.cuda.max_memory_allocated() would say it."""

from __future__ import annotations

from halftime.verbs.forecast.predict import ComponentRun, operations_of
from halftime.verbs.forecast.quantised import QUANTISED
from halftime.verbs.forecast.quantised import weight_bytes as bytes_of_a_weight
from halftime.verbs.forecast.run import activation_bytes
from halftime.verbs.forecast.scenario import Scenario
from halftime.verbs.plan.setups import Setup

# Under group offload by leaves the layer at work and the next are on the card.
_LAYERS_HELD = 3
# A text encoder of so many parameters is quantised with the denoiser where weights alone are.
_LARGE_ENCODER = 1e9
# T5 keeps the second matrix of its feed-forward in fp32 where bitsandbytes quantises the rest:
# parameters of it in all, over all of T5-XXL's.
_T5_IN_FP32 = 0.21


def component_bytes(run: ComponentRun, setup: Setup) -> float:
    """Bytes of a component's weights."""
    parameters = operations_of(run)[0].parameters
    if run.traced.role == "text_encoder" and is_quantised_encoder(parameters, setup):
        quantised = parameters * bytes_of_a_weight(setup.precision)
        if setup.precision == "nf4" and "T5" in run.traced.class_name:
            return quantised * (1 - _T5_IN_FP32) + parameters * _T5_IN_FP32 * 4
        return quantised
    return parameters * bytes_of_a_weight(run.dtype)


def is_quantised_encoder(parameters: float, setup: Setup) -> bool:
    """Whether the way quantises a text encoder of so many parameters."""
    kind = QUANTISED.get(setup.precision)
    return kind is not None and kind.multiplies is None and parameters >= _LARGE_ENCODER


def peak_bytes(scenario: Scenario, setup: Setup, cards: int) -> float:
    """The most that one card holds at once."""
    runs = distinct(scenario)
    share = cards if setup.parallel in ("ulysses", "ring") else 1
    share = 2 if setup.parallel == "guidance" else share

    def active(run: ComponentRun) -> float:
        held = activation_bytes(run)
        return held / share if run.traced.role == "denoiser" else held

    if setup.offload == "none":
        return sum(component_bytes(run, setup) for run in runs) + max(map(active, runs))
    if setup.offload == "model":
        return max(component_bytes(run, setup) + active(run) for run in runs)
    return max(active(run) + _LAYERS_HELD * _largest_layer(run, setup) for run in runs)


def distinct(scenario: Scenario) -> list[ComponentRun]:
    """One run of each component: loaded once, however often it runs."""
    unique = {
        (run.traced.class_name, repr(run.traced.config)): run
        for work in scenario.works
        for run in work.runs
    }
    return list(unique.values())


def _largest_layer(run: ComponentRun, setup: Setup) -> float:
    """Bytes of the largest matrix that a product reads."""
    elements = max(
        (group.n * group.k for group in operations_of(run)[0].eager if group.kind == "gemm"),
        default=0,
    )
    return elements * component_bytes(run, setup) / max(operations_of(run)[0].parameters, 1)
