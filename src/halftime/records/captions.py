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


class Between(Record, frozen=True, kw_only=True):
    """What a model between the small and the large one answered, and a judge's look at it."""

    answer: Answer
    check: Check | None = None


class Logged(Record, frozen=True, kw_only=True):
    """One line of a log: a request and the models' answers.

    `image` is a path beside the log, a data URL or base64; or `features` replace it, and `group`
    names its near duplicates. `slice` names a kind of request, for the report alone. `shape` is
    what else was in the request, as `captions collect` writes it.
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
    shape: str = ""
    between: tuple[Between, ...] = ()  # further models, the cheapest first
    url: str = ""  # where the picture was fetched from


class Trees(Record, frozen=True, kw_only=True):
    """Boosted trees, flat: node i goes to `left[i]` where feature[i] <= split[i], else to
    `right[i]`; a leaf goes to itself. Their sum of leaves times `slope` is added to the logit.

    `roots` are the trees' first nodes, `depth` the most steps to a leaf.
    """

    roots: tuple[int, ...]
    feature: tuple[int, ...]
    split: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]
    depth: int
    slope: float = 1.0


class FirstLook(Record, frozen=True, kw_only=True):
    """What a cascade decides before it asks: its own model over the features without the check.

    From `small_from` on the small answer is taken unchecked; below `ask_from` the large model is
    asked at once; between them the small model is asked and its answer checked.
    """

    weights: tuple[float, ...]
    intercept: float
    slope: float = 1.0
    offset: float = 0.0
    trees: Trees | None = None
    small_from: float
    ask_from: float


class NeverSmall(Record, frozen=True, kw_only=True):
    """Requests that always go to the large model: those that meet every condition that is given.

    `prompt` is a regular expression, searched in the request's words without regard to case.
    """

    name: str
    prompt: str = ""
    pixels_below: float | None = None  # width x height of the picture
    pixels_above: float | None = None


# Schema history
# 1  2026-11  first
class RoutingRules(Record, frozen=True, kw_only=True):
    """A file of rules, for `captions calibrate --rules`; a router carries those it has."""

    schema: Literal[1] = 1
    never_small: tuple[NeverSmall, ...]


# Schema history
# 1  2026-11  first; since then with `trees`, `first_look`, `shapes` and `never_small`
class Router(Record, frozen=True, kw_only=True):
    """A calibrated router: a model over cheap features, and a certified threshold.

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
    trees: Trees | None = None
    first_look: FirstLook | None = None  # of a cascade; without it every request is asked
    # the shapes of requests that were logged, beyond a plain picture with a prompt
    shapes: tuple[str, ...] = ()
    never_small: tuple[NeverSmall, ...] = ()


# Schema history
# 1  2026-11  first
class Chain(Record, frozen=True, kw_only=True):
    """Routers before each model but the largest, the cheapest model's first: each decides on what
    those before it left over."""

    schema: Literal[1] = 1
    halftime: str = ""
    routers: tuple[Router, ...]
    alpha: float
    delta: float


class Step(Record, frozen=True, kw_only=True):
    """One hypothesis of the fixed sequence: `errors` of `sent` were not acceptable there.

    Where pictures recur, `bound` is the larger of two: of all requests, and of the others alone.
    """

    threshold: float
    sent: int
    errors: int
    bound: float  # Clopper-Pearson's upper bound at 1 - delta
    passed: bool


class FamilyCounts(Record, frozen=True, kw_only=True):
    """A log's families of near duplicates: what is evidence of its own, and what is not."""

    families: int
    largest: int  # requests
    largest_share: float
    recurring: int  # families that are large and come all through the log, as fixed cameras do
    recurring_share: float  # of the requests


class LogPower(Record, frozen=True, kw_only=True):
    """What a log can certify, known before anything is learned from it.

    `draws` independent requests are drawn for the certificate; `least_alpha` is what they certify
    where all of them go to the small model without an error. `most_errors`: share of requests that
    go small -> unacceptable ones among the draws with which alpha is still certified.
    """

    draws: int
    least_alpha: float
    needed: int  # requests that must go to the small model without an error
    most_errors: dict[str, int] = {}
    why_few: str = ""  # what keeps the draws so few, where they cannot certify alpha at all


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
# 1  2026-11  first; since then with `families`, `power` and `checked_share`
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
    families: FamilyCounts | None = None
    power: LogPower | None = None
    # share of the requests whose small answer the judge looks at, on the test split
    checked_share: float = 0.0
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


class Leg(Record, frozen=True, kw_only=True):
    """One model of a chain but the largest, on requests that calibrated nothing."""

    model: str  # 'small', 'between 1' …
    mode: Mode
    certified: bool
    why: str
    share: float  # of all requests
    error: float | None  # of its answers
    requests: int  # of the log that its router was calibrated on


# Schema history
# 1  2026-11  first
class ChainResult(Record, frozen=True, kw_only=True):
    """A calibrated chain and its savings, beside those of its first and its last model alone."""

    schema: Literal[1] = 1
    alpha: float
    delta: float
    certified: bool  # at least one of its routers
    savings: float
    oracle_savings: float  # of the cheapest model whose answer is acceptable
    share_of_oracle: float | None
    pair_savings: float  # of the small and the large model alone, from the same log
    quality_loss: float
    error: float | None  # of what the largest model did not answer
    error_high: float | None
    requests: int  # that all of this was counted on
    legs: tuple[Leg, ...]
    policy: Policy
    chain: Chain
