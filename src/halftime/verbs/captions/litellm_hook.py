"""The same decision inside a LiteLLM proxy: a callback that rewrites `model` before routing.

In the proxy's configuration:

    litellm_settings:
      callbacks: halftime.verbs.captions.litellm_hook.router

and in its environment HALFTIME_CAPTIONS_ROUTER (the calibration's file), HALFTIME_CAPTIONS_SMALL
and HALFTIME_CAPTIONS_LARGE (names in its model_list), HALFTIME_CAPTIONS_MIDDLE for a chain,
HALFTIME_CAPTIONS_NAME where it is not 'captions', and HALFTIME_CAPTIONS_FETCH_FROM for hosts, with
commas between them, whose pictures by URL are looked at. deploy/captions-hook.txt lists all that it
imports: torch is not among it. A pre-call hook may change `model`; LiteLLM's custom routing
strategies work in its SDK alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from halftime.base.errors import BadInput
from halftime.records.captions import Router
from halftime.verbs.captions.request import CaptionRequest, caption_request, looked_at, warm_up
from halftime.verbs.captions.router import Decision, decide
from halftime.verbs.captions.routers import read_routers

if TYPE_CHECKING:
    from halftime.verbs.captions.pictures import PictureClient

    class CustomLogger:
        """LiteLLM's base class of callbacks."""

else:
    try:
        from litellm.integrations.custom_logger import CustomLogger
    # the rest of the project has no LiteLLM; the hook is then an ordinary object
    except ImportError:
        CustomLogger = object


_PREFIX = "HALFTIME_CAPTIONS_"
_LITELLMS = {"proxy_server_request", "secret_fields", "headers", "api_version", "cache", "ttl"}


class CaptionsRouter(CustomLogger):
    """Rewrites the model of chat requests that ask for `name`."""

    def __init__(
        self,
        routers: Sequence[Router],
        models: Sequence[str],
        name: str = "captions",
        pictures: PictureClient | None = None,
    ) -> None:
        """`models`: one for each router, the cheapest first, and the large one."""
        super().__init__()
        self.routers, self.models, self.name, self.pictures = routers, models, name, pictures
        warm_up()

    async def async_pre_call_hook(
        self, user_api_key_dict: object, cache: object, data: dict[str, object], call_type: str
    ) -> dict[str, object]:
        """LiteLLM's hook, called before a request is routed; LiteLLM routes what it returns."""
        if data.get("model") != self.name:
            return data
        model, decision = await self._chosen(data)
        metadata = data.get("metadata")
        decided = {"halftime_reason": decision.reason, "halftime_probability": decision.probability}
        return data | {
            "model": model,
            "metadata": (metadata if isinstance(metadata, dict) else {}) | decided,
        }

    async def _chosen(self, data: dict[str, object]) -> tuple[str, Decision]:
        """The model, and why; of a cascade the large one, as no answer can be looked at."""
        if any(router.mode == "cascade" for router in self.routers):
            return self.models[-1], Decision(False, "check")
        request = await self._with_picture(caption_request(_sent_by_the_client(data)))
        certified = [router for router in self.routers if router.threshold is not None]
        look = looked_at((certified or self.routers)[0], request)
        if isinstance(look, Decision):
            return self.models[-1], look
        decisions = [decide(router, look) for router in self.routers]
        number = next((i for i, decision in enumerate(decisions) if decision.small), -1)
        return self.models[number], decisions[number]

    async def _with_picture(self, request: CaptionRequest) -> CaptionRequest:
        """A picture by URL, where its host was named."""
        if self.pictures is None or not self.pictures.may_fetch(request.url):
            return request
        return request._replace(picture=await self.pictures.fetch(request.url))


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
    routers = read_routers(_variable("ROUTER"))
    between = ["MIDDLE"] if len(routers) == 2 else []
    models = [_variable(name) for name in ("SMALL", *between, "LARGE")]
    if len(models) != len(routers) + 1:
        raise BadInput(
            f"the chain in HALFTIME_CAPTIONS_ROUTER has routers for {len(routers) + 1} models; the "
            "hook takes three at most."
        )
    hosts = tuple(filter(None, os.environ.get(f"{_PREFIX}FETCH_FROM", "").split(",")))
    name = os.environ.get(f"{_PREFIX}NAME", "captions")
    return CaptionsRouter(routers, models, name, _pictures(hosts) if hosts else None)


def _variable(name: str) -> str:
    value = os.environ.get(_PREFIX + name)
    if not value:
        raise BadInput(
            f"the environment variable {_PREFIX}{name} is not set; docs/captions.md says what to "
            "set it to."
        )
    return value


def _pictures(hosts: tuple[str, ...]) -> PictureClient:
    from halftime.verbs.captions.pictures import PictureClient  # aiohttp, which LiteLLM brings

    return PictureClient(hosts)


def __getattr__(name: str) -> CaptionsRouter:
    # LiteLLM takes an instance by its dotted name. It is created on first access, since it needs
    # the environment.
    if name != "router":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    hook = from_environment()
    globals()["router"] = hook
    return hook
