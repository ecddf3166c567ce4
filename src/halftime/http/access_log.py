"""The log as JSON, a line a record, for collectors. No prompts, no keys, no addresses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec

FIELDS = "halftime_fields"  # of a record: what stands in its line beside the message
_encoder = msgspec.json.Encoder(decimal_format="number")


def fields(**values: object) -> dict[str, dict[str, object]]:
    """For `extra` of a log call: these values, without those that are None."""
    return {FIELDS: {name: value for name, value in values.items() if value is not None}}


class JsonLines(logging.Formatter):
    """A record as one line of JSON. `context` gives what is to stand in each line written now: the
    trace that it belongs to."""

    def __init__(self, context: Callable[[], Mapping[str, object]] = dict) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
            **self._context(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            # its text may hold what a client sent
            line["exception"] = record.exc_info[0].__name__
        return _encoder.encode(line).decode()
