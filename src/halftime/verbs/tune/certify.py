"""`tune --visible`: the fastest setting of which at most so many pictures differ visibly.

First a race: each setting draws a few pictures, and more as long as it may win; what it loses is
predicted from how far they are apart, what it gains is timed in turns with the recipe so far. The
best are joined in pairs. Then tests in a fixed order, from harmless to harsh, on prompts that the
search has not seen: the last that passes is certified (`race`, `halftime.base.certain`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch

from halftime.base import units
from halftime.base.certain import fewest_alike, fixed_sequence
from halftime.base.errors import BadInput
from halftime.base.progress import Progress
from halftime.base.stats import median, paired_ratio
from halftime.fix.hard_prompts import scored_calls
from halftime.pipeline.device import this_environment
from halftime.pipeline.fingerprint import weights_of
from halftime.records.base import lines_hash
from halftime.records.certificate import Routing, TriedSetting, VisibleCertificate
from halftime.records.priors import setup_seconds
from halftime.records.verdict import Verdict
from halftime.verbs.tune.bench import Bench
from halftime.verbs.tune.decide import Budget, Choices
from halftime.verbs.tune.hard import foreseen, route
from halftime.verbs.tune.race import (
    ROUNDS,
    Raced,
    ShareTest,
    expected_speedup,
    hopeless,
    order,
    share_test,
)
from halftime.verbs.tune.routing import (
    LEARNED,
    BothWays,
    RoutedCache,
    both_ways,
    candidate,
    certified_router,
    mixed,
    routing_of,
    scored,
)
from halftime.verbs.tune.space import Setting, on_top, pairs, singles
from halftime.verbs.tune.tried import SLOW, after_test, failure, untested, why_untested
from halftime.verbs.tune.visible import ruler
from halftime.verbs.tune.visible_goal import MEASURE_SECONDS, SEARCHED, VisibleGoal, enough
from halftime.verbs.verify.metrics import METRICS
from halftime.verbs.verify.pictures import Picture, PictureSet
from halftime.verbs.verify.render import PicturePrompt, floor_sets, render
from halftime.verbs.verify.ruler import Ruler
from halftime.verbs.verify.run import VerifySettings, verdict_of

if TYPE_CHECKING:
    from halftime.records import Workload

_FLOOR_PROMPTS = 4
_TESTS = 3  # that are expected to be drawn to their end
_JOINED = 4  # of the best settings, joined in pairs
_TIMED = 4  # calls of the recipe so far and of a setting, in turns


@dataclass
class Certification:
    """What came of it."""

    tried: tuple[TriedSetting, ...]
    setting: Setting | None = None
    certificate: VisibleCertificate | None = None
    speedup: float = 1.0  # over the baseline, as the search timed it
    gain: float = 1.0  # over the recipe so far
    verdict: Verdict | None = None
    baseline: PictureSet | None = None
    candidate: PictureSet | None = None


@dataclass
class Certifier:
    """One run: the search, and the tests. `plan` is the recipe so far, `speedup` what it brings."""

    bench: Bench
    workload: Workload
    goal: VisibleGoal
    prompts: Sequence[PicturePrompt]
    plan: Choices
    speedup: float
    budget: Budget
    progress: Progress
    say: Callable[[str], None]
    draws: int = 0
    baseline: list[Picture] = field(default_factory=list)
    floors: dict[str, PictureSet] = field(default_factory=dict)
    searched: list[Raced[Setting]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # of a call, by setting
    failures: dict[str, str] = field(default_factory=dict)  # why a setting could not be drawn with
    first: int = 0  # of the tests' prompts: none before it is seen in a test

    def run(self) -> Certification:
        """Search, order, test. Raises BadInput where the budget allows too few pictures."""
        self.first = SEARCHED
        self._draw_baseline(SEARCHED)
        tools = self._ruler()
        self.say(f"visible: {rule_words(tools)}")
        self.draws = self._affordable()
        self._search(tools)
        learned = self._learn(tools)
        queue = order(self.searched, self.draws, self.goal.alpha, self.goal.confidence)
        expected = expected_speedup(
            queue, self.draws, self.goal.alpha, self.goal.confidence, self.speedup
        )
        if learned is not None and learned.speedup > expected:
            return self._with_router(learned, tools)
        self.say(
            f"search: {len(self.searched)} settings; {len(queue)} to test on {self.draws} pictures"
        )
        passed: list[tuple[Raced[Setting], ShareTest, list[Picture]]] = []
        results: dict[str, ShareTest] = {}

        def test(raced: Raced[Setting]) -> ShareTest:
            pictures: list[Picture] = []
            sizes = self._test_sizes(raced.setting, tools, pictures)
            result = share_test(sizes, self.draws, self.goal.alpha, self.goal.confidence)
            results[str(raced.setting)] = result
            if result.passed:
                passed.append((raced, result, pictures))
            self.say(_test_words(raced.setting, result))
            self.bench.keep_only((), self.plan)
            return result

        fixed_sequence(queue, test, lambda result: result.passed)
        tried = self._tried(queue, results)
        if not passed:
            return Certification(tried)
        return self._certified(*passed[-1], tools, tried)

    # ---- pictures

    def _render(self, plan: Choices, start: int, stop: int, label: str) -> tuple[Picture, ...]:
        """The plan's pictures of a part of the prompts, each with the seed of its place."""
        seeded = msgspec.structs.replace(self.workload, seed=self.workload.seed + start)
        pipeline = self.bench.at(plan).pipeline
        return render(
            pipeline, seeded, self.prompts[start:stop], label, progress=self.progress
        ).pictures

    def _draw_baseline(self, stop: int) -> None:
        begun = len(self.baseline)
        if stop > begun:
            self.baseline += self._render((), begun, stop, "baseline")

    def _ruler(self) -> Ruler:
        self.floors = floor_sets(
            self.bench.at(()).pipeline,
            self.workload,
            self.prompts[:_FLOOR_PROMPTS],
            progress=self.progress,
        )
        return ruler(self._set("baseline", self.baseline), self.floors, self.goal.limits)

    def _set(self, label: str, pictures: Sequence[Picture]) -> PictureSet:
        return PictureSet(label, tuple(pictures))

    # ---- time

    def _affordable(self) -> int:
        """Pictures of a test, so many as the budget allows. Raises BadInput where that is too
        few."""
        pair_seconds = self._pair_seconds()
        search = 0.4 * self.budget.left()
        draws = int((self.budget.left() - search) / pair_seconds)
        if draws < self.goal.fewest:
            needed = (
                self.budget.spent() + self.budget.reserve + self.goal.fewest * pair_seconds / 0.6
            )
            raise BadInput(
                f"budget is {units.seconds(self.budget.total)}; {self.goal.needs}, and with them "
                f"and the search that is about {units.seconds(needed)}. Give more --budget, or "
                "allow more, for example --visible "
                f"{enough(SEARCHED + max(draws, 5), self.goal):.0%}."
            )
        most = min(draws, self.goal.draws, len(self.prompts) - SEARCHED)
        return fewest_alike(most, self.goal.alpha, self.goal.confidence)

    def _search_time(self) -> float:
        """What is left for the search: all but what the tests are expected to take."""
        return self.budget.left() - self.draws * self._pair_seconds()

    def _pair_seconds(self) -> float:
        """One prompt in all tests that are expected: the baseline's picture once, and theirs."""
        baseline = self.bench.at(()).call_seconds
        tuned = self.bench.at(self.plan).call_seconds
        return baseline + _TESTS * (tuned + MEASURE_SECONDS)

    # ---- the search

    def _search(self, tools: Ruler) -> None:
        pipeline = self.bench.pipeline
        alone = [
            setting
            for choice in singles(pipeline, self.workload.steps)
            if (setting := on_top(pipeline, self.plan, (choice,)))
        ]
        for setting in alone:
            self._race(setting, tools)
        best = self._best()
        for changes in pairs([raced.setting for raced in best]):
            joined = on_top(pipeline, self.plan, changes)
            if joined is not None:
                self._race(joined, tools)

    def _best(self) -> list[Raced[Setting]]:
        """Settings that gain, and hardly lose: the fastest first."""
        likely = [
            raced
            for raced in self.searched
            if raced.speedup > self.speedup and raced.predicted_share <= 2 * self.goal.alpha
        ]
        return sorted(likely, key=lambda raced: -raced.speedup)[:_JOINED]

    def _race(self, setting: Setting, tools: Ruler) -> None:
        """Draw with a setting, a few pictures at first."""
        call = self.bench.at(self.plan).call_seconds
        setup = sum(map(setup_seconds, setting.plan))
        if self._search_time() < setup + ROUNDS[0] * (2 * call + MEASURE_SECONDS):
            self.failures[str(setting)] = "no time was left for it"
            return
        try:
            raced = self._raced(setting, tools)
        except Exception as error:  # a fix may fail in any way; it is left out, with the reason
            self.failures[str(setting)] = _reason(error)
        else:
            self.searched.append(raced)
            self.say(
                f"{setting}: {units.ratio(raced.speedup)}, {raced.different} of "
                f"{len(raced.sizes)} differ visibly, expected {units.share(raced.predicted_share)}"
            )
        self.bench.keep_only((), self.plan)

    def _raced(self, setting: Setting, tools: Ruler) -> Raced[Setting]:
        speedup = self.speedup * self._gain(setting)
        sizes: list[float] = []
        for stop in ROUNDS:
            pictures = self._render(setting.plan, len(sizes), stop, str(setting))
            pairs_of_round = zip(self.baseline[len(sizes) : stop], pictures, strict=True)
            sizes += [tools.size(*pair) for pair in pairs_of_round]
            if speedup < SLOW * self.speedup or hopeless(sizes, self.goal.alpha):
                break
        return Raced(setting, speedup, tuple(sizes))

    def _gain(self, setting: Setting) -> float:
        """Over the recipe so far, timed in turns."""
        before, after = self.bench.at(self.plan).pipeline, self.bench.at(setting.plan).pipeline
        old, new = [], []
        for turn in range(_TIMED):
            old.append(self.bench.seconds(before, turn))
            new.append(self.bench.seconds(after, turn))
        self.seconds[str(setting)] = median(new)
        return paired_ratio(old, new).value

    # ---- the tests

    def _test_sizes(
        self, setting: Setting, tools: Ruler, pictures: list[Picture]
    ) -> Iterator[float]:
        """How far each picture of the test is from the baseline's, drawn as they are asked for."""
        for index in range(self.first, self.first + self.draws):
            if not self.budget.allows(self.bench.at(setting.plan).call_seconds):
                return
            self.progress(f"testing {setting}", index - self.first, self.draws)
            self._draw_baseline(index + 1)
            pictures += self._render(setting.plan, index, index + 1, f"testing {setting}")
            yield tools.size(self.baseline[index], pictures[-1])

    # ---- hard prompts in full

    def _learn(self, tools: Ruler) -> RoutedCache | None:
        """The cache that is worth a router, drawn both ways on prompts that no test sees."""
        raced = candidate(self.searched, self.speedup)
        draws = len(self.prompts) - SEARCHED - LEARNED
        if raced is None or draws < self.goal.fewest:
            return None
        setting = raced.setting
        seconds = LEARNED * self._pair_seconds() + setup_seconds(setting.changes[-1])
        if self._search_time() < seconds:
            self.failures[f"a router for {setting}"] = "no time was left for it"
            return None
        self.first = SEARCHED + LEARNED
        most = min(self.draws, draws)
        self.draws = fewest_alike(most, self.goal.alpha, self.goal.confidence)
        try:
            prompts, _ = self._drawn_both_ways(setting, 0, self.first, tools)
            cheap_speedup = self.speedup * self._gain(both_ways(setting, self.workload.steps)[0])
        except Exception as error:  # as for any setting
            self.failures[f"a router for {setting}"] = _reason(error)
            return None
        share = foreseen(*prompts, self.draws, self.goal.alpha, self.goal.confidence)
        expected = mixed(share, cheap_speedup, self.speedup)
        self.say(
            f"router for {setting}: {units.share(share)} of the calls cheaply, "
            f"{units.ratio(expected)} expected"
        )
        return RoutedCache(setting, prompts, cheap_speedup, share, expected)

    def _drawn_both_ways(
        self, setting: Setting, start: int, stop: int, tools: Ruler
    ) -> tuple[BothWays, list[tuple[Picture, Picture]]]:
        """A part of the prompts with each call drawn cheaply, and in full. Raises BadInput where a
        call was not scored."""
        cheap, full = both_ways(setting, self.workload.steps)
        self._draw_baseline(stop)
        self.bench.at(cheap.plan)  # warm, before calls are watched
        with scored_calls() as rows:
            cheaply = self._render(cheap.plan, start, stop, f"{setting}, hard prompts or not")
        if len(rows) != stop - start:
            raise BadInput("its calls could not be scored by their first steps.")
        in_full = self._render(full.plan, start, stop, f"{setting}, in full")
        baseline = self.baseline[start:stop]
        return BothWays(
            torch.cat(rows).double().numpy(),
            np.array([tools.size(*pair) for pair in zip(baseline, cheaply, strict=True)]),
            np.array([tools.size(*pair) for pair in zip(baseline, in_full, strict=True)]),
        ), list(zip(cheaply, in_full, strict=True))

    def _with_router(self, learned: RoutedCache, tools: Ruler) -> Certification:
        """Thresholds of its score are tested, from strict to loose."""
        stop = self.first + self.draws
        self.say(f"testing thresholds of the router on {self.draws} pictures")
        tests, pictures = self._drawn_both_ways(learned.setting, self.first, stop, tools)
        routed = certified_router(learned.prompts, tests, self.goal.alpha, self.goal.confidence)
        tried = self._tried((), {})
        if routed.threshold == -np.inf:
            self.say("test failed: no threshold of the router passed")
            return Certification(tried)
        routing = routing_of(routed, learned, tests, self.speedup)
        setting = scored(learned.setting, self.workload.steps, routed.setting())
        result = ShareTest(self.draws, routed.different, routed.at_most, passed=True)
        speedup = mixed(routed.cheap_share, learned.cheap_speedup, self.speedup)
        raced = Raced(setting, speedup, tuple(map(float, learned.prompts.cheap)))
        self.say(
            f"{_test_words(setting, result)}; {units.share(routed.cheap_share)} of the calls are "
            "drawn cheaply"
        )
        is_cheap = route(routed, tests.features)
        chosen = [pair[not cheaply] for pair, cheaply in zip(pictures, is_cheap, strict=True)]
        self.seconds[str(setting)] = self.seconds[
            str(both_ways(learned.setting, self.workload.steps)[0])
        ]
        tried += (after_test(raced, self.seconds[str(setting)], result),)
        return self._certified(raced, result, chosen, tools, tried, routing)

    # ---- the end

    def _tried(
        self, queue: Sequence[Raced[Setting]], results: dict[str, ShareTest]
    ) -> tuple[TriedSetting, ...]:
        """Every setting with what came of it; those that could not be drawn with come last."""
        rows = []
        for raced in self.searched:
            name, seconds = str(raced.setting), self.seconds[str(raced.setting)]
            if name in results:
                rows.append(after_test(raced, seconds, results[name]))
            else:
                why = why_untested(raced, queue, self.speedup, self.goal.alpha)
                rows.append(untested(raced, seconds, why))
        failed = [failure(name, why) for name, why in self.failures.items()]
        return (*rows, *failed)

    def _certified(
        self,
        raced: Raced[Setting],
        result: ShareTest,
        pictures: Sequence[Picture],
        tools: Ruler,
        tried: tuple[TriedSetting, ...],
        routing: Routing | None = None,
    ) -> Certification:
        assert result.at_most is not None
        tested = self.baseline[self.first : self.first + result.pairs]
        # with the pictures that the floors were measured on
        first = self._render(raced.setting.plan, 0, _FLOOR_PROMPTS, "recipe")
        baseline = self._set("baseline", [*self.baseline[:_FLOOR_PROMPTS], *tested])
        candidate = self._set("recipe", [*first, *pictures])
        self.progress("comparing", 0, 1)
        settings = VerifySettings(floors=self.floors)
        environment = this_environment(self.workload.device or "cpu")
        return Certification(
            tried,
            raced.setting,
            self._certificate(result, tools, routing),
            raced.speedup,
            raced.speedup / self.speedup,
            verdict_of(baseline, candidate, settings, environment),
            baseline,
            candidate,
        )

    def _certificate(
        self, result: ShareTest, tools: Ruler, routing: Routing | None
    ) -> VisibleCertificate:
        assert result.at_most is not None
        pipeline = self.bench.pipeline
        prompts = self.prompts[self.first : self.first + result.pairs]
        height, width = self.baseline[0].pixels.shape[:2]
        return VisibleCertificate(
            alpha=self.goal.alpha,
            confidence=self.goal.confidence,
            visible=tools.rule,
            pairs=result.pairs,
            different=result.different,
            at_most=result.at_most,
            prompts_hash=lines_hash(prompt.text for prompt in prompts),
            seed=self.workload.seed + self.first,
            weights=weights_of(pipeline),
            width=width,
            height=height,
            steps=self.workload.steps,
            guidance=self.workload.guidance,
            scheduler=type(getattr(pipeline, "scheduler", None)).__name__,
            routing=routing,
            voids=VOIDS,
        )


VOIDS = (
    "other weights, a LoRA among them",
    "another size, number of steps, guidance or scheduler",
    "prompts of another kind than those that were tested",
    "another version of torch or diffusers, or another device, until it is verified there",
)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def rule_words(tools: Ruler) -> str:
    """'flip above 0.053, ms_ssim above 0.074, agreement falling by more than 0.05'."""
    return ", ".join(
        f"{name} above {limit:.3g}"
        if METRICS[name].kind == "distance"
        else f"{name} falling by more than {limit:.3g}"
        for name, limit in tools.rule.limits.items()
    )


def _test_words(setting: Setting, result: ShareTest) -> str:
    counts = f"{result.different} of {result.pairs} pictures differ visibly"
    if result.at_most is None:
        return f"test failed: {setting}: {counts}"
    return f"test passed: {setting}: {counts}, at most {units.share(result.at_most)} of all"
