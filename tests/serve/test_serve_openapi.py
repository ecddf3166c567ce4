"""The OpenAPI document says what is served; schemathesis tries to find a request for which that is not so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from schemathesis.core.failures import AcceptedNegativeData, FailureGroup
from starlette.routing import Route

from halftime.serve.app import ROUTES
from halftime.serve.openapi import document, documented
from serve_fake import Running, serving

PAGE = {"/", "/page/{name}"}  # for browsers, no API
TOKEN = "token"


def test_every_route_is_documented_and_nothing_else() -> None:
    served = {
        (method, plain(route)) for route in ROUTES for method in route.methods - {"HEAD"} if plain(route) not in PAGE
    }
    assert served == set(documented())


def plain(route: Route) -> str:
    return route.path.replace(":path}", "}")


def test_the_document_is_whole_and_served() -> None:
    made = json.loads(document())
    references = [text.split('"')[0] for text in document().decode().split('"$ref":"#/components/schemas/')[1:]]
    assert set(references) <= set(made["components"]["schemas"])
    with serving() as running:
        assert httpx2.get(f"{running.address}/openapi.json").json() == made


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(profile_token=TOKEN) as server:
        yield server


# What the schema cannot say (no stream of several pictures, no compression for PNG) is refused with 400 and a reason.
EXCLUDED = ["positive_data_acceptance"]
api = schemathesis.openapi.from_dict(json.loads(document()))


@api.auth()
class Token:
    """Sends the token; schemathesis also tries without it, and with another."""

    def get(self, case: schemathesis.Case, context: schemathesis.AuthContext) -> str:
        return TOKEN

    def set(self, case: schemathesis.Case, data: str, context: schemathesis.AuthContext) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


@pytest.mark.slow
@api.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_schemathesis_finds_nothing(case: schemathesis.Case, running: Running) -> None:
    try:
        case.call_and_validate(base_url=running.address, excluded_checks=CHECKS.get_by_names(EXCLUDED), timeout=10)
    except FailureGroup as found:
        if not all(is_about_types_in_a_form(case, each) for each in found.exceptions):
            raise


def is_about_types_in_a_form(case: schemathesis.Case, failure: Exception) -> bool:
    """A form knows words alone: null is sent as four letters, an empty list not at all, and both may be accepted.

    What breaks anything else of the schema (a missing field, a word that is not allowed) must still be refused.
    """
    violated = set(re.findall(r"violates `(\w+)`", str(failure)))
    in_a_form = case.media_type == "multipart/form-data"
    return in_a_form and isinstance(failure, AcceptedNegativeData) and bool(violated) and violated <= {"type", "anyOf"}
