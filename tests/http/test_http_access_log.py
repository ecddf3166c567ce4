"""The log as JSON: what stands in a line, and what never does."""

from __future__ import annotations

import json
import logging

from halftime.http.access_log import JsonLines, fields


def record(message: str = "hello", **values: object) -> logging.LogRecord:
    made = logging.LogRecord("halftime.http", logging.WARNING, "f.py", 1, message, (), None)
    vars(made).update(values)
    return made


def test_a_record_is_one_line() -> None:
    line = JsonLines().format(record("two\nlines", created=0.25))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "warning",
        "logger": "halftime.http",
        "message": "two\nlines",
    }


def test_fields_and_the_context_stand_beside_the_message() -> None:
    lines = JsonLines(lambda: {"trace_id": "1"})
    values = json.loads(lines.format(record(**fields(status=200, key=None, timing={"queue": 0.5}))))
    assert (values["status"], values["timing"], values["trace_id"]) == (200, {"queue": 0.5}, "1")
    assert "key" not in values


def test_an_exceptions_text_is_left_out() -> None:
    """It may hold what a client sent."""
    error = ValueError("a red apple")
    line = JsonLines().format(record(exc_info=(ValueError, error, None)))
    assert json.loads(line)["exception"] == "ValueError"
    assert "apple" not in line
