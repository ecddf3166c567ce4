"""The model of an endpoint, where nobody names one."""

from __future__ import annotations

from halftime.base.errors import BadInput
from halftime.verbs.gateway.endpoint import headers_of
from halftime.verbs.gateway.settings import GatewaySettings, arms_of
from halftime.verbs.gateway.upstream import listed_models

_MOCK = "mock-model"
_NAMED = 5


def named_model(settings: GatewaySettings) -> str:
    """The one that the direct endpoint lists; the mock's where it lists none.

    Raises BadInput where it lists several: which of them is measured, and paid for, is not ours to
    choose.
    """
    if settings.target != "openai" or settings.payload.kind not in (
        "chat",
        "image-in",
        "image-out",
    ):
        return _MOCK
    _, direct = arms_of(settings)[0]
    models = listed_models(settings.direct, headers_of(direct), direct.trust)
    if len(models) > 1:
        more = ", …" if len(models) > _NAMED else ""
        raise BadInput(
            f"the direct endpoint lists {len(models)} models: "
            f"{', '.join(models[:_NAMED])}{more}. Name one with --model."
        )
    return models[0] if models else _MOCK
