"""The one place where text becomes HTML: jinja2 templates that escape every value."""

from __future__ import annotations

from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup


def render(template: str, **values: object) -> Markup:
    """A template of report/assets with its values: str is escaped, Markup is taken as it is."""
    return Markup(_environment().get_template(template).render(values))


def asset(name: str) -> str:
    """The text of a file in report/assets."""
    return resources.files("halftime.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
