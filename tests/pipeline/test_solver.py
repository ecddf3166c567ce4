"""Another scheduler by name samples what the pipeline's own samples, or is refused by name."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest

from halftime.base.errors import BadWorkload
from halftime.fix.guard import why_not
from halftime.fix.table import FIXES
from halftime.pipeline.load import scheduler_named
from halftime.pipeline.solver import matches_flows, of_another_family, solver_like
from tiny_pipelines import PIPELINES

FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
UNIPC_FLOW = diffusers.UniPCMultistepScheduler(
    use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
)
DDIM = diffusers.DDIMScheduler()
SOLVERS_OF_FLOWS = [
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "FlowMatchHeunDiscreteScheduler",
]


@pytest.mark.parametrize("own", [FLOW, UNIPC_FLOW], ids=["FlowMatch", "UniPC of flows"])
@pytest.mark.parametrize("name", SOLVERS_OF_FLOWS)
def test_a_solver_for_a_flow_matching_model_matches_flows(own: object, name: str) -> None:
    solver = solver_like(own, getattr(diffusers, name))
    assert matches_flows(solver)
    assert solver.config.get("flow_shift", solver.config.get("shift")) == 3.0
    assert solver.config.get("prediction_type", "flow_prediction") == "flow_prediction"


def test_it_has_the_noise_levels_of_the_models_own() -> None:
    solver = solver_like(FLOW, diffusers.DPMSolverMultistepScheduler)
    solver.set_timesteps(10)
    FLOW.set_timesteps(10)
    assert np.allclose(solver.sigmas[1:9], sigmas_of_flows(10)[1:9], atol=5e-3)
    assert solver.sigmas.max() <= 1.0


def sigmas_of_flows(steps: int):  # type: ignore[no-untyped-def]
    UNIPC_FLOW.set_timesteps(steps)
    return UNIPC_FLOW.sigmas


@pytest.mark.parametrize(
    ("own", "name", "words"),
    [
        (FLOW, "EulerDiscreteScheduler", "cannot sample a flow-matching model"),
        (UNIPC_FLOW, "EulerDiscreteScheduler", "cannot sample a flow-matching model"),
        (DDIM, "FlowMatchEulerDiscreteScheduler", "samples flow-matching models only"),
        (DDIM, "EulerDiscreteScheduler", None),
        (UNIPC_FLOW, "FlowMatchEulerDiscreteScheduler", None),
    ],
)
def test_which_solver_fits_which_model(own: object, name: str, words: str | None) -> None:
    reason = of_another_family(own, getattr(diffusers, name))
    assert reason is None if words is None else words in str(reason)


def test_the_option_and_the_fix_choose_alike() -> None:
    pipeline = PIPELINES["sd3"].build()
    solver = scheduler_named("UniPCMultistep", pipeline)
    assert matches_flows(solver)
    with pytest.raises(BadWorkload, match="EulerDiscreteScheduler cannot sample"):
        scheduler_named("EulerDiscrete", pipeline)
    fix = FIXES["solver-steps"]
    settings = fix.with_defaults({"scheduler": "EulerDiscreteScheduler"})
    assert "cannot sample" in str(why_not(fix, pipeline, settings))
