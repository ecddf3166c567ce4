"""How the servers under test schedule: by the call; with `pytest --scheduling step` at the step.

Every helper that starts an engine asks `scheduled`, and every stand-in worker does as its settings
say. Files whose tests are cheap run both ways in every run: `pytestmark = both_ways`.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from halftime.records.serve import Scheduling
from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.wire import Ready


@dataclass
class Way:
    """Of this test."""

    scheduling: Scheduling = "call"


WAY = Way()
both_ways = pytest.mark.usefixtures("each_scheduling")


def scheduled(settings: EngineSettings) -> EngineSettings:
    """The settings, scheduled as this test is to be; what they say themselves stays."""
    if settings.scheduling == "step":
        return settings
    return msgspec.structs.replace(settings, scheduling=WAY.scheduling)


def ready(message: Ready, scheduling: Scheduling) -> Ready:
    """What a worker says that schedules so."""
    certificate = msgspec.structs.replace(message.certificate, scheduling=scheduling)
    return msgspec.structs.replace(message, certificate=certificate)


def only_by_call(why: str) -> pytest.MarkDecorator:
    """A test of what there is by the call alone."""
    return pytest.mark.only_by_call(why)
