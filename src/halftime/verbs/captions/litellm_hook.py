"""The same decision inside a LiteLLM proxy: a callback that rewrites `model` before routing.

In the proxy's configuration:

    litellm_settings:
      callbacks: halftime.verbs.captions.litellm_hook.router

and in its environment HALFTIME_CAPTIONS_ROUTER (the calibration's file), HALFTIME_CAPTIONS_SMALL
and HALFTIME_CAPTIONS_LARGE (names in its model_list), and HALFTIME_CAPTIONS_NAME where it is not
'captions'. deploy/captions-hook.txt lists all that it imports: torch is not among it. A pre-call
hook may change `model`; LiteLLM's custom routing strategies work in its SDK alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from halftime.base.errors import BadInput
from halftime.base.store import read_json
from halftime.records.captions import Router
from halftime.verbs.captions.request import choose, warm_up
from halftime.verbs.captions.router import Decision

if TYPE_CHECKING:

    class CustomLogger:
        """LiteLLM's base class of callbacks."""

else:
    try:
        from litellm.integrations.custom_logger import CustomLogger
    # the rest of the project has no LiteLLM; the hook is then an ordinary object
    except ImportError:
        CustomLogger = object


_LITELLMS = {"proxy_server_request", "secret_fields", "headers", "api_version", "cache", "ttl"}


class CaptionsRouter(CustomLogger):
    """Rewrites the model of chat requests that ask for `name`."""

    def __init__(self, router: Router, small: str, large: str, name: str = "captions") -> None:
        super().__init__()
        self.router, self.small, self.large, self.name = router, small, large, name
        warm_up()

    async def async_pre_call_hook(
        self, user_api_key_dict: object, cache: object, data: dict[str, object], call_type: str
    ) -> dict[str, object]:
        """LiteLLM's hook, called before a request is routed; LiteLLM routes what it returns."""
        if data.get("model") != self.name:
            return data
        decision = self.decided(data)
        metadata = data.get("metadata")
        decided = {"halftime_reason": decision.reason, "halftime_probability": decision.probability}
        return data | {
            "model": self.small if decision.small else self.large,
            "metadata": (metadata if isinstance(metadata, dict) else {}) | decided,
        }

    def decided(self, data: dict[str, object]) -> Decision:
        """The decision; a cascade's is always the large model, with no small answer to look at."""
        if self.router.mode == "cascade":
            return Decision(False, "check")
        return choose(self.router, _sent_by_the_client(data))


def _sent_by_the_client(data: dict[str, object]) -> dict[str, object]:
    """The request without what LiteLLM adds to it, which would look like another shape."""
    received = data.get("proxy_server_request")
    body = received.get("body") if isinstance(received, dict) else None
    names = body if isinstance(body, dict) else [name for name in data if not _is_litellms(name)]
    return {name: data[name] for name in names if name in data}


def _is_litellms(name: str) -> bool:
    return name.startswith(("litellm_", "user_api_key")) or name in _LITELLMS


def from_environment() -> CaptionsRouter:
    """The hook as the environment describes it. Raises BadInput for a variable that is missing."""
    names = ("HALFTIME_CAPTIONS_ROUTER", "HALFTIME_CAPTIONS_SMALL", "HALFTIME_CAPTIONS_LARGE")
    for name in names:
        if not os.environ.get(name):
            raise BadInput(
                f"the environment variable {name} is not set; docs/captions.md says what to set it "
                "to."
            )
    file, small, large = (os.environ[name] for name in names)
    return CaptionsRouter(
        read_json(file, Router), small, large, os.environ.get("HALFTIME_CAPTIONS_NAME", "captions")
    )


def __getattr__(name: str) -> CaptionsRouter:
    # LiteLLM takes an instance by its dotted name. It is created on first access, since it needs
    # the environment.
    if name != "router":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    hook = from_environment()
    globals()["router"] = hook
    return hook
