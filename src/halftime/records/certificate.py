"""How far approximate fixes may go: what was tested, and what the certificate says and needs."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record
from halftime.records.choice import Choice


class Visible(Record, frozen=True, kw_only=True):
    """When a picture differs visibly from the baseline's of the same prompt and seed.

    It does where a metric of `limits` is beyond its limit, in the metric's own unit (a score where
    higher is better: where it falls by more), or where it is broken and the baseline's is not.
    """

    limits: dict[str, float]
    # metric -> share of its distance between pictures of different prompts, where it is one
    shares: dict[str, float] = {}


class TriedSetting(Record, frozen=True, kw_only=True):
    """One setting of approximate fixes: what was seen in the search, and in its test if any."""

    fixes: tuple[Choice, ...]  # the whole plan
    changes: tuple[Choice, ...]  # of these, what the setting consists of
    seconds: float  # of a call, while its pictures were drawn
    speedup: float  # over the baseline's
    searched: int  # pictures of the search
    search_different: int  # of those, how many differ visibly
    predicted_share: float  # of all pictures, from the sizes of the distances in the search
    pairs: int = 0  # pictures of its test
    different: int = 0
    at_most: float | None = None  # of all pictures, with the certificate's confidence
    passed: bool | None = None  # None: not tested, and `why` says so
    why: str = ""


class Routing(Record, frozen=True, kw_only=True):
    """Hard prompts in full: what the score of a recipe's cache did on the pictures of the test.

    An oracle knows which pictures will differ, and draws all others cheaply.
    """

    cheap_share: float  # of the calls
    oracle_share: float
    saving_share: float  # of a call's seconds in full
    oracle_saving_share: float
    cheap_different_share: float  # of the pictures, were all drawn cheaply
    learned: int  # prompts that taught the score


# Schema history
# 1  2026-11  first; routing is absent in its first files
class VisibleCertificate(Record, frozen=True, kw_only=True):
    """With `confidence` at most a share `alpha` of the pictures differs visibly.

    It holds for prompts like those of the test (`prompts_hash`), on these weights and this
    workload; `voids` says in words what ends it.
    """

    schema: Literal[1] = 1
    alpha: float
    confidence: float
    visible: Visible
    pairs: int  # pictures of the test
    different: int  # of those, how many differ visibly
    at_most: float  # the exact upper bound: at or below alpha
    prompts_hash: str  # of the texts that were tested, one a line
    seed: int  # of the first picture
    # component -> a hash over the names of its parameters and some of their values
    weights: dict[str, str]
    width: int
    height: int
    steps: int
    scheduler: str
    guidance: float | None = None  # the pipeline's own
    routing: Routing | None = None  # where hard prompts are drawn in full
    voids: tuple[str, ...] = ()
