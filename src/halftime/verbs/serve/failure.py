"""What a client is told of a picture that could not be drawn."""

from __future__ import annotations

import sys
import traceback
from typing import NamedTuple

from halftime.base.errors import BadWorkload
from halftime.verbs.serve.messages import FailureKind


class Failure(NamedTuple):
    """Fields of a JobFailed."""

    kind: FailureKind
    message: str
    retryable: bool


LATE = Failure("deadline", "the deadline passed while it was drawn.", retryable=True)


def failure_of(error: Exception) -> Failure:
    """The fault without what a prompt may have put into it; whose it is goes to standard error."""
    if isinstance(error, BadWorkload):
        return Failure("bad_request", str(error), retryable=False)
    # where it happened and what kind it is; its message may quote a prompt
    where = "".join(traceback.format_tb(error.__traceback__))
    print(where, type(error).__name__, file=sys.stderr)  # noqa: T201
    return Failure("internal", f"the pipeline failed: {type(error).__name__}.", retryable=True)
