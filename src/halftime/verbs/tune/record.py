"""What a finished `tune` writes down: the recipe, and the record of all that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from halftime.base import units
from halftime.base.stats import median, paired_ratio
from halftime.base.version import version
from halftime.fix.apply import architecture, choose
from halftime.fix.probe import probe_key
from halftime.fix.table import FIXES
from halftime.records import Environment, Session
from halftime.records.base import lines_hash
from halftime.records.certificate import TriedSetting
from halftime.records.recipe import Plan, Recipe, Rung
from halftime.records.tune import MemoryUse, SweepPoint, Trial, Tuning
from halftime.records.verdict import Verdict
from halftime.verbs.tune.certify import Certification
from halftime.verbs.tune.decide import Goal
from halftime.verbs.tune.measure import Measurements
from halftime.verbs.tune.search import Climb
from halftime.verbs.verify.render import PicturePrompt


class LastMeasurement(NamedTuple):
    """Baseline and recipe at the end: in turns, by their pictures, and by their ledgers."""

    trial: Trial
    verdict: Verdict
    before: Session
    after: Session | None  # None where the budget had no time for it


def recipe_of(
    search: Climb, last: LastMeasurement, measurements: Measurements, environment: Environment
) -> Recipe:
    """The plan that the climb ended with, and its evidence in short."""
    loaded = measurements.loaded
    return Recipe(
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=loaded.name,
        pipeline=type(loaded.pipeline).__name__,
        architecture=architecture(loaded.pipeline),
        fixes=search.plan,
        environment=environment,
        workload_hash=measurements.workload.content_hash(),
        baseline_seconds=median(last.trial.baseline),
        tuned_seconds=median(last.trial.candidate),
        speedup=paired_ratio(last.trial.baseline, last.trial.candidate).value,
        verdict=last.verdict.verdict,
        probed=probe_key(loaded.pipeline, choose(Plan(fixes=search.plan))),
        ladder=tuple(search.ladder),
    )


def tuning_of(
    recipe: Recipe,
    last: LastMeasurement,
    measurements: Measurements,
    *,
    environment: Environment,
    goal: Goal,
    stopped: str,
    points: tuple[SweepPoint, ...],
    prompts: Sequence[PicturePrompt],
    notes: Sequence[str],
    tried: tuple[TriedSetting, ...] = (),
    memory: MemoryUse | None = None,
) -> Tuning:
    """The record of the run that ended with this recipe; `points` are the sweep's, `tried` the
    settings of a certificate's search."""
    ratio = paired_ratio(last.trial.baseline, last.trial.candidate)
    baseline, tuned = median(last.trial.baseline), median(last.trial.candidate)
    return Tuning(
        halftime=recipe.halftime,
        created=recipe.created,
        model=recipe.model,
        pipeline=recipe.pipeline,
        goal=str(goal),
        reached=None if goal == Goal() else goal.reached(tuned, ratio.value),
        stopped=stopped,
        baseline_seconds=baseline,
        tuned_seconds=tuned,
        speedup=ratio.value,
        speedup_low=ratio.low,
        speedup_high=ratio.high,
        rounds=len(last.trial.baseline),
        verdict=last.verdict.verdict,
        ladder=recipe.ladder,
        recipe=recipe,
        budget_seconds=measurements.budget.total,
        spent_seconds=measurements.budget.spent(),
        resumed=measurements.state.resumed,
        sweep=points,
        before=last.before,
        after=last.after,
        evidence=last.verdict,
        environment=environment,
        workload=measurements.workload,
        workload_hash=recipe.workload_hash,
        prompts=last.verdict.pairs,
        prompts_hash=lines_hash(prompt.text for prompt in prompts),
        notes=(*measurements.loaded.notes, *notes),
        tried=tried,
        memory=memory,
    )


def adopt(search: Climb, certification: Certification) -> None:
    """The certified setting joins the plan, with a rung for each of its fixes."""
    setting, certificate = certification.setting, certification.certificate
    assert setting is not None
    assert certificate is not None
    names = {choice.name for choice in setting.plan}
    for choice in search.plan:
        if choice.name not in names:
            search.drop(choice.name, f"replaced: {setting} excludes it, and was faster")
    last = certification.verdict is not None and certification.verdict.verdict == "equivalent"
    measured = "measured equivalent" if last else "certified"
    why = (
        f"{measured} on {certificate.pairs} pictures, {certificate.different} of which differ "
        f"visibly: at most {units.share(certificate.at_most)} of all"
    )
    for index, choice in enumerate(setting.plan):
        if choice in search.plan:
            continue
        is_last = index == len(setting.plan) - 1
        search.ladder.append(
            Rung(
                fix=choice.name,
                level=FIXES[choice.name].level,
                settings=choice.settings,
                observed=certification.speedup if is_last else None,
                gain=certification.gain if is_last else None,
                kept=True,
                why=why,
            )
        )
    search.plan, search.speedup = setting.plan, certification.speedup


def rung_words(rung: Rung) -> str:
    """One line on a decision."""
    settings = f" {msgspec.json.encode(rung.settings).decode()}" if rung.settings else ""
    if rung.observed is None:
        return f"not tried: {rung.fix}{settings}: {rung.why}"
    decision = "kept" if rung.kept else "dropped"
    speedups = f"predicted {rung.predicted:.2f}x, observed {rung.observed:.2f}x"
    return f"{decision}: {rung.fix}{settings}: {speedups}; {rung.why}"
