"""What each stage of a pipeline would take on a named GPU, without the GPU and without the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halftime.verbs import callable_package

if TYPE_CHECKING:
    from halftime.records.forecast import Forecast


def _forecast(*args: object, **kwargs: object) -> Forecast:
    """`halftime.forecast(model, gpu, settings=…)`: one warm call of a model on a named GPU: seconds with a 90 % band.

    Arguments as of `halftime.forecast.run.forecast`. Raises UnknownModel, UnknownDevice or BadInput.
    """
    from halftime.forecast.run import forecast

    return forecast(*args, **kwargs)  # type: ignore[arg-type]


callable_package(__name__, _forecast)
