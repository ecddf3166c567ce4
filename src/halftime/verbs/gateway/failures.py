"""Which share of each arm's requests failed, and whether that is more than a gateway may."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from halftime.base import units
from halftime.records.gateway import Load
from halftime.verbs.gateway.compare import shorter_sentence

FAILING_SHARE = 0.01  # of an arm's requests; above it a load is not held and no budget is kept
_SURE = 2.0  # standard errors that the through arm must fail above a direct arm that fails too
DIRECT, THROUGH = "direct", "through"


class Failures(NamedTuple):
    """Failed requests of one arm, over one load or several."""

    arm: str
    causes: dict[str, int]  # '502' or 'timeout' -> count, the most frequent first
    requests: int

    @property
    def failed(self) -> int:
        """Requests that failed."""
        return sum(self.causes.values())

    @property
    def share(self) -> float:
        """Of the arm's requests; 0 where it had none."""
        return self.failed / self.requests if self.requests else 0.0

    def sentence(self) -> str:
        """'through: 90 % of 600 requests failed (502)'."""
        share = units.share(self.share).replace(".0 %", " %")
        causes = list(self.causes)
        if len(causes) > 1:
            causes = [f"{units.count(count)} x {cause}" for cause, count in self.causes.items()]
        return (
            f"{self.arm}: {share} of {units.count(self.requests)} requests failed "
            f"({', '.join(causes)})"
        )


def failures(loads: Sequence[Load], arm: str) -> Failures:
    """The failures of this arm over these loads."""
    causes: Counter[str] = Counter()
    for load in loads:
        for kind, count in load.error_kinds.items():
            failed_arm, _, cause = kind.partition(": ")
            causes[cause] += count if failed_arm == arm else 0
    requests = sum(
        load.through_requests if arm == THROUGH else load.requests - load.through_requests
        for load in loads
    )
    return Failures(arm, dict((+causes).most_common()), requests)


def fails(load: Load, through: bool) -> bool:
    """Whether the arm that is judged fails more of this load's requests than it may.

    That is the gateway's where one is measured (`through`), and else the direct one.
    """
    direct = failures([load], DIRECT)
    if not through:
        return direct.share > FAILING_SHARE
    judged = failures([load], THROUGH)
    return judged.share > max(FAILING_SHARE, _explained(direct, judged.requests))


def _explained(direct: Failures, requests: int) -> float:
    """The share that may fail with the upstream: the direct arm's, and what chance adds to it."""
    if not direct.failed or not requests:
        return 0.0
    share = direct.share
    return share + _SURE * math.sqrt(share * (1 - share) * (1 / direct.requests + 1 / requests))


def failing_sentence(loads: Sequence[Load], through: bool) -> str | None:
    """What failed over the loads at which more failed than may; None where there are none."""
    failing = [load for load in loads if load.failing]
    return failures(failing, THROUGH if through else DIRECT).sentence() if failing else None


def failure_sentences(loads: Sequence[Load]) -> Iterator[str]:
    """A sentence for each arm that failed at all, the gateway's first."""
    for arm in (THROUGH, DIRECT):
        failed = failures(loads, arm)
        if failed.failed:
            yield failed.sentence()


def broken_sentences(loads: Sequence[Load], stopped: str | None = None) -> Iterator[str]:
    """Why the gateway did not do its job, beside failing more requests than it may.

    An answer that is not the upstream's is none of those that may fail now and then.
    """
    if stopped:
        yield stopped
    logs = [load.upstream for load in loads if load.upstream]
    unreached, answered = (
        sum(values) for values in ([v.unreached for v in logs], [v.answered for v in logs])
    )
    if unreached:
        yield (
            f"{units.count(unreached)} of {units.count(answered)} requests that were answered "
            "never reached the upstream"
        )
    wrong = Counter[str]()
    for load in loads:
        wrong.update(load.wrong)
    if wrong:
        through = sum(load.through_requests for load in loads)
        kinds = ", ".join(f"{units.count(count)} x {kind}" for kind, count in wrong.most_common())
        yield (
            f"{units.count(sum(wrong.values()))} of {units.count(through)} answers through the "
            f"gateway are not the upstream's ({kinds})"
        )
    shorter = (shorter_sentence(load.answers, load.through_requests) for load in loads)
    yield from list(filter(None, shorter))[:1]
