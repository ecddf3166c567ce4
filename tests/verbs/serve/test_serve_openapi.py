"""The OpenAPI document says what is served; schemathesis tries to find a request for which that is
not so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from PIL import Image
from schemathesis.checks import CHECKS
from schemathesis.core.failures import AcceptedNegativeData, FailureGroup
from starlette.routing import Route

from halftime.verbs.serve.app import ROUTES
from halftime.verbs.serve.openapi import document, documented
from serve_fake import Running, http, serving

PAGE = {"/", "/page/{name}"}  # for browsers, no API
TOKEN = "token"


def test_every_route_is_documented_and_nothing_else() -> None:
    served = {
        (method, plain(route))
        for route in ROUTES
        for method in route.methods - {"HEAD"}
        if plain(route) not in PAGE
    }
    assert served == set(documented())


def plain(route: Route) -> str:
    return route.path.replace(":path}", "}")


def test_the_document_is_whole_and_served() -> None:
    schema = json.loads(document())
    references = [
        text.split('"')[0]
        for text in document().decode().split('"$ref":"#/components/schemas/')[1:]
    ]
    assert set(references) <= set(schema["components"]["schemas"])
    with serving() as running:
        assert http.get(f"{running.address}/openapi.json").json() == schema


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(profile_token=TOKEN) as server:
        yield server


# What the schema cannot say (which sizes are offered, a transparent background) is refused with 400
# and a reason.
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
    seconds = case.body.get("deadline_seconds") if isinstance(case.body, dict) else None
    if isinstance(seconds, int | float) and 0.1 <= seconds < 60:
        case.body["deadline_seconds"] = 60  # a short one is a 504, as it should be
    try:
        case.call_and_validate(
            base_url=running.address, excluded_checks=CHECKS.get_by_names(EXCLUDED), timeout=60
        )
    except FailureGroup as failures:
        if not all(
            is_a_breach_that_a_form_cannot_carry(case, failure) for failure in failures.exceptions
        ):
            raise


def is_a_breach_that_a_form_cannot_carry(case: schemathesis.Case, failure: Exception) -> bool:
    """A form knows words alone: null is sent as four letters, ["high"] as high, an empty list not
    at all.

    So what schemathesis made wrong may arrive right; what a form can say wrong has a test of its
    own.
    """
    return case.media_type == "multipart/form-data" and isinstance(failure, AcceptedNegativeData)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": None},
        {"image": None},
        {"prompt": ""},
        {"n": "0"},
        {"n": "one"},
        {"size": "large"},
        {"steps": "0"},
        {"output_format": "gif"},
        {"input_fidelity": "medium"},
        {"strength": "2"},
        {"seed": "-2"},
        {"stream": "maybe"},
    ],
    ids=str,
)
def test_a_form_that_breaks_the_schema_is_refused(
    wrong: dict[str, str | None], running: Running
) -> None:
    file = BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    fields = {"prompt": "a cat", **wrong}
    files = {} if "image" in wrong else {"image": ("a.png", file.getvalue())}
    words = {name: (None, value) for name, value in fields.items() if value is not None}
    answer = http.post(running.address + "/v1/images/edits", files={**files, **words})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]
