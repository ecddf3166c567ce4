"""The two arms' answers side by side: an answer through the gateway must be the upstream's own.

With the mock each answer carries the id of its request and a known text, so that it is compared
byte for byte. Of another upstream no two answers are alike: what all direct answers have in common
is what those through must have too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from halftime.base.stats import median
from halftime.records.gateway import AnswerFacts, UpstreamLog
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.mock import LogEntry

Log = Mapping[str, Sequence[LogEntry]]  # the calls of each request, by its id
_MOST = 0.95  # of the direct arm's answers: then it is the upstream's way
_FEWEST = 10  # answers of each arm, to compare their lengths
_MUCH_SHORTER = 0.5


def check_answers(direct: Sequence[Sample], through: Sequence[Sample], log: Log | None) -> None:
    """Give each answer through the gateway that is not the upstream's own its error."""
    good = [sample for sample in direct if sample.ok]
    if not good:
        return
    finished = _most([sample.reply.finished for sample in good])
    streamed = _most([sample.reply.streamed for sample in good])
    digests = Counter(sample.reply.digest for sample in good if sample.reply.mark)
    sizes = {sample.reply.digest: sample.reply.size for sample in good}
    ids = {sample.id for arm in (direct, through) for sample in arm}
    repeated = _repeated(good, through) if log is None else frozenset()
    models = {bare(entry.model) for sample in good for entry in (log or {}).get(sample.id, ())}
    for sample in through:
        if not sample.ok:
            continue
        reply = sample.reply
        if streamed and not reply.streamed:
            sample.error = "not a stream"
        elif finished and not reply.finished:
            sample.error = "a stream without [DONE]"
        elif sample.id in repeated:
            sample.error = "an answer that was given before"
        elif log is None and reply.mark != sample.id and reply.mark in ids:
            sample.error = "the answer to another request"
        elif log is not None and digests:
            sample.error = _unlike(sample, digests, sizes) or _other_model(sample, models, log)


def _repeated(direct: Sequence[Sample], through: Sequence[Sample]) -> Set[str]:
    """Ids of requests whose answer is another one's, id and text: of a cache that is not asked the
    same twice. Only where direct answers are all different in both."""
    if len(direct) < _FEWEST or not _all_differ(direct):
        return frozenset()
    earlier = set[tuple[str, int]]()
    repeated = set[str]()
    for sample in through:
        answer = sample.reply.identity, sample.reply.digest
        if sample.ok and answer[0] and answer in earlier:
            repeated.add(sample.id)
        earlier.add(answer)
    return repeated


def _all_differ(samples: Sequence[Sample]) -> bool:
    identities = {sample.reply.identity for sample in samples} - {""}
    return len(identities) == len({sample.reply.digest for sample in samples}) == len(samples)


def _most(answers: Sequence[bool]) -> bool:
    return sum(answers) >= _MOST * len(answers)


def _unlike(sample: Sample, digests: Counter[int], sizes: Mapping[int, int]) -> str:
    """How an answer differs from those that the mock gives directly."""
    reply = sample.reply
    if reply.mark and reply.mark != sample.id:
        return "the answer to another request"
    if reply.digest in digests:
        return ""
    usual = sizes[digests.most_common(1)[0][0]]
    if reply.size < usual:
        return "an answer shorter than the upstream's"
    return (
        "an answer longer than the upstream's"
        if reply.size > usual
        else "another text than the upstream's"
    )


def _other_model(sample: Sample, models: Set[str], log: Log) -> str:
    """An upstream that was asked for another model than the direct arm asks it for."""
    asked_for = {bare(entry.model) for entry in log.get(sample.id, ())}
    return "an answer of another model" if asked_for and models and not asked_for & models else ""


def bare(model: str) -> str:
    """Without the provider's name, which gateways put before it."""
    return model.rpartition("/")[2]


# a connection that broke, rather than a gateway that does something else
_TRANSPORT = ("cut short", "timeout", "connection lost")


def wrong_answers(direct: Sequence[Sample], through: Sequence[Sample]) -> dict[str, int]:
    """Answers of 2xx that are none, through the gateway alone, by their error."""
    wrong, usual = (
        Counter(s.error for s in arm if s.error and 200 <= s.status < 300)
        for arm in (through, direct)
    )
    return {
        error: count
        for error, count in wrong.most_common()
        if error not in usual and error not in _TRANSPORT
    }


def shorter_sentence(facts: AnswerFacts | None, count: int) -> str | None:
    """Answers that hold less than half of what they hold directly, of an upstream that is no
    mock."""
    if facts is None or not facts.direct_size or facts.through_size is None or count < _FEWEST:
        return None
    if facts.through_size >= _MUCH_SHORTER * facts.direct_size:
        return None
    return (
        f"answers through the gateway are shorter: {facts.through_size:,.0f} characters for "
        f"{facts.direct_size:,.0f} direct (medians)"
    )


def answer_facts(direct: Sequence[Sample], through: Sequence[Sample]) -> AnswerFacts | None:
    """How the answers of the two arms differ; None where one has none."""
    arms = [[sample for sample in arm if sample.ok] for arm in (direct, through)]
    if not all(arms):
        return None
    shared = frozenset.intersection(*(sample.reply.keys for sample in arms[0]))
    anywhere = frozenset[str]().union(*(sample.reply.keys for sample in arms[1]))
    names = [{bare(sample.reply.model) for sample in arm} - {""} for arm in arms]
    encodings = {sample.reply.encoding for sample in arms[1]} - {
        sample.reply.encoding for sample in arms[0]
    }
    return AnswerFacts(
        missing=tuple(sorted(shared - anywhere)),
        encoding=", ".join(sorted(encodings)),
        models=tuple(sorted(names[1] - names[0])) if names[0] else (),
        interim=sum(sample.interim for sample in arms[1]),
        direct_closing=_share(arms[0]),
        through_closing=_share(arms[1]),
        direct_pieces=median([len(sample.chunks) for sample in arms[0]]),
        through_pieces=median([len(sample.chunks) for sample in arms[1]]),
        direct_size=median([sample.reply.size for sample in arms[0]]),
        through_size=median([sample.reply.size for sample in arms[1]]),
    )


def _share(samples: Sequence[Sample]) -> float:
    return sum(sample.closes for sample in samples) / len(samples)


def upstream_log(direct: Sequence[Sample], through: Sequence[Sample], log: Log) -> UpstreamLog:
    """What the mock's log says of these requests."""
    answered = [sample for sample in through if sample.ok]
    calls = [log[sample.id] for sample in through if sample.id in log]
    nameless = len(log.get("", ()))  # reached it with a prompt that had lost the request's id
    arms = [[e for s in arm for e in log.get(s.id, ())] for arm in (direct, through)]
    sizes = [[entry.size for entry in entries] for entries in arms]
    usual = {bare(entry.model) for entry in arms[0]}
    names = {entry.model for entry in arms[1] if usual and bare(entry.model) not in usual}
    return UpstreamLog(
        unreached=max(0, sum(sample.id not in log for sample in answered) - nameless),
        answered=len(answered),
        calls_per_request=sum(map(len, calls)) / len(calls) if calls else 0.0,
        direct_at_once=_at_once(arms[0]),
        through_at_once=_at_once(arms[1]),
        direct_request_bytes=median(sizes[0]) if sizes[0] else None,
        through_request_bytes=median(sizes[1]) if sizes[1] else None,
        models=tuple(sorted(names)),
    )


def _at_once(entries: Sequence[LogEntry]) -> int:
    """Most requests under way at one moment."""
    moments = sorted([(e.received, 1) for e in entries] + [(e.sent, -1) for e in entries])
    under_way = most = 0
    for _, change in moments:
        under_way += change
        most = max(most, under_way)
    return most
