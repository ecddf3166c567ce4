"""`tune --visible` on the bundled model with few steps: a certificate, and every refusal."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import halftime
from halftime.base.errors import BadInput, HalftimeWarning, Unlike
from halftime.base.store import read_toml, write_toml
from halftime.cli import _run
from halftime.fix.certificate import other_model
from halftime.fix.deep_cache import DeepCache, full_steps_to_end
from halftime.fix.hard_prompts import scored_calls
from halftime.pipeline.fingerprint import weights_of
from halftime.pipeline.load import LoadedPipeline
from halftime.records import Workload
from halftime.records.base import lines_hash
from halftime.records.recipe import Choice, Recipe
from halftime.report.certificate import definition, promise
from halftime.report.tune import report_of
from halftime.verbs.serve.certified import certificate_note
from halftime.verbs.serve.messages import EngineSettings, Job
from halftime.verbs.serve.stepping import Watch
from halftime.verbs.serve.studio import open_studio
from halftime.verbs.tune import certify
from halftime.verbs.tune.certify import Certifier
from halftime.verbs.tune.options import Options
from halftime.verbs.tune.run import Outcome, tuned
from halftime.verbs.tune.space import Setting, on_top, pairs, singles, with_full_ends
from halftime.verbs.tune.visible_goal import SEARCHED, VisibleGoal, certifiable_prompts
from quick_tuning import tune_quickly

WORKLOAD = Workload(steps=2, width=64, height=64)
GOAL = VisibleGoal(0.3, 0.8, draws=6)  # 5 pictures without a failure certify it
TINY = Choice(name="tiny-vae", settings={"source": "bundled"})
ONE_STEP = Choice(name="solver-steps", settings={"scheduler": "", "steps": 1})
GAINS = {"tiny-vae": 1.5, "solver-steps": 2.0}


def certify_quickly(monkeypatch: pytest.MonkeyPatch, choices: Sequence[Choice]) -> None:
    """A small space, few pictures of the search, and gains that no clock decides."""

    def gain(certifier: Certifier, setting: Setting) -> float:
        certifier.bench.at(setting.plan)
        certifier.seconds[str(setting)] = 0.1
        return max(GAINS[change.name] for change in setting.changes)

    tune_quickly(monkeypatch)
    monkeypatch.setattr(certify, "ROUNDS", (4,))
    monkeypatch.setattr(certify, "SEARCHED", 4)
    monkeypatch.setattr(certify, "singles", lambda pipeline, steps: list(choices))
    monkeypatch.setattr(Certifier, "_gain", gain)
    # the end may not find the recipe slower on a busy machine
    monkeypatch.setattr("halftime.verbs.tune.run.TuningRun._confirm", _confirmed)


def _confirmed(run, search):  # type: ignore[no-untyped-def]
    return run.bench.confirm(search.plan, 2, run.progress)


def outcome(goal: VisibleGoal, workload: Workload = WORKLOAD) -> Outcome:
    loaded = LoadedPipeline(halftime.load_pipeline(), "emoji-xl", ())
    return tuned(loaded, workload, Options(visible=goal, budget=3600.0, prompts=4))


@pytest.fixture(scope="module")
def certified() -> Outcome:
    with pytest.MonkeyPatch.context() as monkeypatch:
        certify_quickly(monkeypatch, [TINY, ONE_STEP])
        # pictures of the tiny VAE pass, those of one step do not
        goal = replace_limits(GOAL, {"rmse": 40.0})
        return outcome(goal)


def replace_limits(goal: VisibleGoal, limits: dict[str, float]) -> VisibleGoal:
    return VisibleGoal(goal.alpha, goal.confidence, limits, goal.draws)


def test_the_certificate_says_what_was_tested(certified: Outcome) -> None:
    recipe = certified.tuning.recipe
    certificate = recipe.certificate
    assert certificate is not None
    assert (certificate.alpha, certificate.confidence) == (0.3, 0.8)
    assert certificate.pairs == 5  # a sixth would allow no failure more
    assert certificate.at_most <= 0.3
    assert (certificate.width, certificate.height, certificate.steps) == (64, 64, 2)
    assert certificate.visible.limits == {"rmse": 40.0}
    assert certificate.weights == weights_of(halftime.load_pipeline())
    assert TINY in recipe.fixes
    kept = {rung.fix: rung for rung in certified.tuning.ladder if rung.kept}
    assert "on 5 pictures" in kept["tiny-vae"].why
    assert "0 of 5" in promise(certificate)
    assert "rmse > 40" in definition(certificate.visible)


def test_everything_that_was_tried_is_on_the_page(certified: Outcome) -> None:
    tuning = certified.tuning
    names = [tuple(c.name for c in tried.changes) for tried in tuning.tried]
    assert ("tiny-vae",) in names
    assert ("solver-steps",) in names
    by_name = dict(zip(names, tuning.tried, strict=True))
    assert by_name["tiny-vae",].passed
    assert all(tried.passed or tried.why or tried.pairs for tried in tuning.tried)
    titles = [section.title for section in report_of(tuning).sections]
    assert "Certificate" in titles


def test_a_recipe_keeps_its_certificate_in_its_file(certified: Outcome, tmp_path: Path) -> None:
    write_toml(tmp_path / "recipe.toml", certified.tuning.recipe)
    again = read_toml(tmp_path / "recipe.toml", Recipe)
    assert again.certificate == certified.tuning.recipe.certificate


def test_another_fine_tuning_is_named(certified: Outcome) -> None:
    recipe, pipeline = certified.tuning.recipe, halftime.load_pipeline()
    certificate = recipe.certificate
    assert certificate is not None
    assert other_model(certificate, pipeline) == ""
    next(pipeline.unet.parameters()).data.add_(1.0)
    assert "unet: other weights" in other_model(certificate, pipeline)
    with (
        pytest.warns(HalftimeWarning, match="certificate does not hold here: unet"),
        halftime.applied(pipeline, recipe, probe=False),
    ):
        pass
    with pytest.raises(Unlike, match="another model: unet"):
        certificate_note(recipe, pipeline, EngineSettings(), None)


def test_a_server_names_what_it_offers_beyond_the_certificate(certified: Outcome) -> None:
    recipe, pipeline = certified.tuning.recipe, halftime.load_pipeline()
    same = EngineSettings(sizes=((64, 64),), steps=(2,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "certified at 64x64, 2 steps" in certificate_note(recipe, pipeline, same, None)
    more = EngineSettings(sizes=((64, 64), (128, 128)), steps=(2, 30))
    with pytest.warns(HalftimeWarning, match="not certified: 128x128, 30 steps"):
        certificate_note(recipe, pipeline, more, None)
    plain = replace(recipe, certificate=None)
    assert certificate_note(plain, pipeline, more, None) == ""


def test_where_no_setting_passes_the_recipe_stays_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    certify_quickly(monkeypatch, [ONE_STEP])
    tuning = outcome(replace_limits(GOAL, {"rmse": 1e-6})).tuning
    assert tuning.recipe.certificate is None
    assert tuning.recipe.fixes == ()
    assert any("nothing could be certified" in note for note in tuning.notes)
    assert tuning.tried[0].why == "too many pictures of the search differ visibly"


# ---- hard prompts in full

CACHE = Choice(name="step-cache", settings={"kind": "deep", "every": 2})


@pytest.fixture(scope="module")
def routed() -> Outcome:
    """A cache that is routed, whatever the tests of settings promise."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        certify_quickly(monkeypatch, [CACHE])
        monkeypatch.setattr(certify, "LEARNED", 4)
        monkeypatch.setitem(GAINS, "step-cache", 1.5)
        monkeypatch.setattr(certify, "expected_speedup", lambda *_: 0.0)
        goal = replace_limits(GOAL, {"rmse": 250.0})
        return outcome(goal, workload=replace(WORKLOAD, steps=4))


def test_a_recipe_carries_its_router_and_what_it_saves(routed: Outcome) -> None:
    recipe = routed.tuning.recipe
    certificate = recipe.certificate
    assert certificate is not None
    routing = certificate.routing
    assert routing is not None
    assert routing.learned == 8
    assert 0 < routing.cheap_share <= routing.oracle_share == 1
    assert 0 < routing.saving_share <= routing.oracle_saving_share == pytest.approx(1 / 3)
    (cache,) = (choice for choice in recipe.fixes if choice.name == "step-cache")
    assert cache.settings["full_steps"] == 2
    assert len(cache.settings["hard"]) == 4  # type: ignore[arg-type]
    words = str(report_of(routed.tuning))
    assert "An oracle would draw 100.0 % cheaply" in words
    assert certificate.prompts_hash == lines_hash(
        prompt.text for prompt in certifiable_prompts(WORKLOAD, GOAL)[8 : 8 + certificate.pairs]
    )


def test_a_server_draws_by_the_router_of_its_recipe(routed: Outcome, tmp_path: Path) -> None:
    """As `applied` does it, with the threshold of the file."""
    write_toml(tmp_path / "recipe.toml", routed.tuning.recipe)
    recipe = read_toml(tmp_path / "recipe.toml", Recipe)
    assert recipe == routed.tuning.recipe
    settings = EngineSettings(
        recipe=str(tmp_path / "recipe.toml"), sizes=((64, 64),), steps=(4,), tiny_vae=None
    )
    opened = open_studio(settings)
    with opened.stack, scored_calls() as rows:
        drawn = Job(id="a", prompt="a red apple", width=64, height=64, steps=4, seed=0)
        opened.draw([drawn], Watch([drawn], lambda: [drawn]))
    assert len(rows) == 1


# ---- refusals, before anything is measured


def test_a_workload_with_too_few_prompts_is_refused() -> None:
    words = replace(WORKLOAD, prompts=("a red apple", "a dog", "a red apple"))
    with pytest.raises(BadInput, match=r"2 different prompts; .* needs 149 pictures"):
        certifiable_prompts(words, VisibleGoal(0.02))


def test_search_and_test_share_no_prompt() -> None:
    prompts = certifiable_prompts(WORKLOAD, VisibleGoal(0.02))
    assert len({prompt.text for prompt in prompts}) == len(prompts) >= 149 + SEARCHED


@pytest.mark.parametrize(
    ("goal", "word"),
    [
        ({"alpha": 0.0}, "visible"),
        ({"alpha": 1.0}, "visible"),
        ({"alpha": 0.02, "confidence": 1.0}, "confidence"),
        ({"alpha": 0.02, "draws": 100}, "149 pictures"),
        ({"alpha": 0.02, "limits": {"sharpness": 1.0}}, "sharpness"),
    ],
)
def test_a_goal_that_cannot_be_certified_is_refused(goal: dict[str, object], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        VisibleGoal(**goal)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--confidence 90%", "--visible"),
        ("--visible-by flip=0.1", "--visible"),
        ("--visible 2% --visible-by flip", "METRIC=LIMIT"),
        ("--visible 2% --allow approximate", "--allow"),
        ("--visible 2", "share"),
        ("--visible 2% --prompts 50", "149 pictures"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(
    words: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(["tune", *words.split(), "--quiet"], debug=False) == 2
    assert reason in capsys.readouterr().err


# ---- the space


def test_single_settings_apply_and_none_is_the_workload_itself() -> None:
    choices = singles(halftime.load_pipeline(), 30)
    names = {choice.name for choice in choices}
    assert {"solver-steps", "guidance-interval", "step-cache", "tiny-vae"} <= names
    assert all(choice.settings.get("steps", 1) < 30 for choice in choices)  # type: ignore[operator]
    assert len({str(choice) for choice in choices}) == len(choices)


def test_caches_evaluate_first_and_last_steps_in_full() -> None:
    caches = [c for c in singles(halftime.load_pipeline(), 30) if c.name == "step-cache"]
    counts = {c.settings["every"]: c.settings["full_steps"] for c in caches}
    assert counts == {2: 6, 3: 6, 4: 6}
    for every, count in counts.items():
        assert (29 - (count - 1)) % every == 0  # type: ignore[operator]


@given(steps=st.integers(1, 100), every=st.integers(2, 9), fewest=st.integers(0, 20))
def test_the_last_step_is_a_full_one(steps: int, every: int, fewest: int) -> None:
    """As `DeepCache` counts: every so many steps from the last that must be full."""
    count = full_steps_to_end(steps, every, fewest)
    assert fewest <= count < fewest + every
    cache = DeepCache(every, count)
    is_full = []
    for _ in range(steps):
        cache.decide(1)
        cache.outputs["middle"] = 0
        is_full.append(not cache.skip)
    assert all(is_full[:count])
    if count >= 1:
        assert is_full[-1]


def test_what_ran_the_denoiser_is_replaced_where_it_has_to_go() -> None:
    pipeline = halftime.load_pipeline()
    loop = Choice(name="loop-graph", settings={"backend": "openvino"})
    quantised = Choice(name="denoiser-quantize")
    setting = on_top(pipeline, (loop,), (quantised,))
    assert setting is not None
    assert {choice.name for choice in setting.plan} == {"denoiser-quantize", "denoiser-dtype"}
    cache = Choice(name="step-cache", settings={"kind": "deep"})
    both = on_top(pipeline, (loop,), (cache,))
    assert both is not None
    assert both.plan == (loop, cache)
    fewer = on_top(pipeline, (loop,), (ONE_STEP,))
    assert fewer is not None
    assert fewer.plan == (loop, ONE_STEP)


def test_pairs_are_of_different_fixes() -> None:
    settings = [Setting((choice,), (choice,)) for choice in (TINY, ONE_STEP, ONE_STEP)]
    assert pairs(settings) == [(TINY, ONE_STEP), (TINY, ONE_STEP)]


def test_a_cache_beside_fewer_steps_ends_with_theirs() -> None:
    fewer = Choice(name="solver-steps", settings={"scheduler": "", "steps": 20})
    cache = with_full_ends(Choice(name="step-cache", settings={"kind": "deep", "every": 4}), 30)
    settings = [Setting((choice,), (choice,)) for choice in (cache, fewer)]
    ((joined, _),) = pairs(settings)
    assert (cache.settings["full_steps"], joined.settings["full_steps"]) == (6, 4)
