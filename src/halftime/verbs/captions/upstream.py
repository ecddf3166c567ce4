"""A model behind an OpenAI-shaped endpoint: where it is, its key, what it costs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from halftime.base.errors import BadInput

_COUNTS = re.compile(rb'"(prompt|completion)_tokens"\s*:\s*(\d+)')


@dataclass(frozen=True)
class Upstream:
    """`url` ends with /v1; `key` is never shown. Prices in one currency: a request, a million
    tokens in and out."""

    model: str
    url: str
    key: str = ""
    price: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0

    def __repr__(self) -> str:
        return f"Upstream({self.model!r}, {self.url!r})"

    def headers(self, given: dict[str, str]) -> dict[str, str]:
        """The client's headers, with this upstream's own key where it has one."""
        return given | ({"authorization": f"Bearer {self.key}"} if self.key else {})

    def spend(self, tail: bytes) -> float:
        """What an answer cost, from the token counts near its end; the price of a request where it
        says none."""
        counts = {name: int(number) for name, number in _COUNTS.findall(tail)}
        return self.price + 1e-6 * (
            self.price_in * counts.get(b"prompt", 0) + self.price_out * counts.get(b"completion", 0)
        )


def key_from(variable: str | None) -> str:
    """A key from the environment. Raises BadInput where the variable is not set."""
    if variable is None:
        return ""
    if not os.environ.get(variable):
        raise BadInput(f"the environment variable {variable} is not set; it should hold the key.")
    return os.environ[variable]
