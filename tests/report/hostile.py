"""Records of every type that a report draws, with the same text in every field of text."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable

import msgspec

from halftime.records import Record
from halftime.records.captions import CaptionsResult
from halftime.records.gateway import GRID, Distribution
from halftime.report.registry import record_types

DEEPEST = 9  # records within records; rows hold rows


class Filler:
    """Builds records with `text` in every str; `variant` picks literals, None and booleans."""

    def __init__(self, text: str, variant: int) -> None:
        self.text, self.variant = text, variant

    def record(self, kind: type[Record], depth: int = 0) -> Record:
        values = {
            field.name: self.value(field.type, depth + 1)
            for field in msgspec.structs.fields(kind)
            if field.name != "schema"
        }
        return REPAIRS.get(kind, lambda record: record)(kind(**values))

    def value(self, hint: object, depth: int) -> object:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if isinstance(hint, type) and issubclass(hint, Record):
            return self.record(hint, depth)
        if hint in SCALARS:
            return SCALARS[hint](self)
        if origin is typing.Literal:
            return arguments[self.variant % len(arguments)]
        if origin is tuple:
            return () if depth > DEEPEST else (self.value(arguments[0], depth),) * 2
        if origin is list:
            return [self.value(arguments[0], depth)]
        if origin is dict:
            return {self.text: self.value(arguments[1], depth)}
        assert origin in (typing.Union, types.UnionType), hint
        return self.of_union(arguments, depth)

    def of_union(self, arguments: tuple[object, ...], depth: int) -> object:
        if str in arguments:
            return self.text
        choices = [argument for argument in arguments if argument is not type(None)]
        optional = len(choices) < len(arguments)
        if optional and (self.variant % 3 == 2 or depth > DEEPEST):
            return None
        return self.value(choices[0], depth)


SCALARS: dict[object, Callable[[Filler], object]] = {
    str: lambda filler: filler.text,
    int: lambda filler: 2 + filler.variant,
    float: lambda filler: 0.25 * (1 + filler.variant),
    bool: lambda filler: filler.variant % 2 == 0,
    object: lambda filler: {filler.text: filler.text},
}


def _as_calibrated(result: CaptionsResult) -> CaptionsResult:
    """With the names that every calibration has: two policies and the test split."""
    named = [
        msgspec.structs.replace(policy, name=name)
        for policy, name in zip(result.policies, ("always large", "always small"), strict=True)
    ]
    return msgspec.structs.replace(
        result, policies=(*result.policies, *named), requests={**result.requests, "test": 1}
    )


REPAIRS: dict[type[Record], Callable[[typing.Any], Record]] = {
    CaptionsResult: _as_calibrated,
    Distribution: lambda curve: msgspec.structs.replace(curve, values=GRID),
}


def records(text: str) -> list[Record]:
    """Several of each type that has a report."""
    return [Filler(text, variant).record(kind) for kind in record_types() for variant in range(3)]
