"""What `captions` learns (Router), and what it is worth (CaptionsResult).

Costs are in one currency, times in seconds.
"""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record

Mode = Literal["route", "cascade"]


class Answer(Record, frozen=True, kw_only=True):
    """One model's answer to a logged request: quality (0 to 1, or any unit), price, latency."""

    quality: float
    cost: float
    seconds: float = 0.0
    text: str = ""


class Check(Record, frozen=True, kw_only=True):
    """A judge's look at the small model's answer and the picture; what the cascade decides by."""

    score: float
    cost: float = 0.0
    seconds: float = 0.0


class Logged(Record, frozen=True, kw_only=True):
    """One line of a log: a request and both models' answers.

    `image` is a path beside the log, a data URL or base64; or `features` replace it, and `group`
    names its near duplicates. `slice` names a kind of request, for the report alone.
    """

    id: str = ""
    prompt: str = ""
    image: str | None = None
    features: tuple[float, ...] | None = None
    group: str | None = None
    slice: str = ""
    heavy: bool = False
    small: Answer
    large: Answer
    check: Check | None = None


# Schema history
# 1  2026-11  first
class Router(Record, frozen=True, kw_only=True):
    """A calibrated router: a logistic model over cheap features, and a certified threshold.

    Requests whose probability of being acceptable is at least `threshold` go to the small model;
    None sends all to the large one. `limit` bounds the mean squared standard score of the features:
    beyond it a request is unlike what was calibrated.
    """

    schema: Literal[1] = 1
    halftime: str = ""
    created: str = ""  # ISO 8601, UTC
    mode: Mode = "route"
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    slope: float = 1.0  # Platt's recalibration: logit -> slope * logit + offset
    offset: float = 0.0
    limit: float
    threshold: float | None
    alpha: float
    delta: float
    tolerance: float
    small_share: float = 0.0  # as certified; a live share far from it is drift


class Step(Record, frozen=True, kw_only=True):
    """One hypothesis of the fixed sequence: `errors` of `sent` were not acceptable there."""

    threshold: float
    sent: int
    errors: int
    bound: float  # Clopper-Pearson's upper bound at 1 - delta
    passed: bool


class Policy(Record, frozen=True, kw_only=True):
    """A way of choosing the model, on the test split; `low`, `high`: 95 % interval of savings."""

    name: str
    small_share: float
    cost: float  # a request
    seconds: float
    quality: float
    quality_low: float
    quality_high: float
    savings: float
    low: float
    high: float
    error: float | None  # share of what the small model answered that was not acceptable


class Slice(Record, frozen=True, kw_only=True):
    """A kind of request on the test split."""

    name: str
    requests: int
    small_share: float
    error: float | None
    error_high: float | None  # Clopper-Pearson, 95 %, one-sided
    quality: float
    quality_large: float


class Mistake(Record, frozen=True, kw_only=True):
    """A request of the test split that went to the small model and should not have."""

    id: str
    slice: str
    prompt: str
    probability: float
    small: str
    large: str
    image: str | None = None  # data URL of a thumbnail


# Schema history
# 1  2026-11  first
class CaptionsResult(Record, frozen=True, kw_only=True):
    """A calibration and its savings.

    The first seven fields after the schema are the contract for scripts.
    """

    schema: Literal[1] = 1
    threshold: float | None
    alpha: float
    delta: float
    small_share: float
    savings: float  # 1 - spend / spend of always-large, everything paid included
    quality_loss: float  # mean quality of always-large minus ours
    oracle_savings: float
    savings_low: float
    savings_high: float
    share_of_oracle: float | None
    error: float | None  # of the test split, small model's answers that were not acceptable
    error_high: float | None
    certified: bool
    why: str  # a sentence: what was certified, or how many examples are missing
    # error rate of the small model's share -> examples sent to it that would be needed
    needed: dict[str, int] = {}
    requests: dict[str, int] = {}  # split -> requests
    acceptable_share: float  # of all test requests: what the oracle may send to the small model
    cost_ratio: float  # r: small over large, a request
    router_cost: float | None = None  # of one decision, as it was given; None: not counted
    mode: Mode
    # both modes on the calibration split, by which the choice was made
    modes: tuple[Policy, ...] = ()
    steps: tuple[Step, ...] = ()
    policies: tuple[Policy, ...] = ()
    slices: tuple[Slice, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    # this router at other thresholds, on the test split: spend against quality
    curve: tuple[Policy, ...] = ()
    router: Router
