"""A certificate in production: what is drawn twice, when there is an alarm, and what it does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_link import READY, FakeLink, Fakes, good, settle
from serve_helpers import events_of, job, names

import halftime
from halftime.base.errors import BadInput
from halftime.base.store import write_toml
from halftime.cli.serve import _engine_settings
from halftime.pipeline.architecture import architecture
from halftime.pipeline.fingerprint import weights_of
from halftime.records.certificate import Visible, VisibleCertificate
from halftime.records.recipe import Choice, Plan, Recipe
from halftime.verbs.serve.certificate_watch import CertificateWatch
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import EngineSettings, Job
from halftime.verbs.serve.shadow import Shadow, exact_part, shadow_of
from halftime.verbs.serve.stepping import Watch
from halftime.verbs.serve.studio import open_studio
from halftime.verbs.serve.wire import BatchDone, Shadowed
from halftime.verbs.verify.ruler import ruler_of

GREY = np.full((64, 64, 3), 128, np.uint8)
CERTIFICATE = VisibleCertificate(
    alpha=0.05,
    confidence=0.95,
    visible=Visible(limits={"rmse": 10.0}),
    pairs=100,
    different=1,
    at_most=0.05,
    prompts_hash="",
    seed=0,
    weights={},
    width=64,
    height=64,
    steps=4,
    guidance=2.5,
    scheduler="EulerDiscreteScheduler",
)
APPROXIMATE = Choice(name="tiny-vae", settings={"source": "bundled"})
EXACT = Choice(name="known-device")


def shadow(share: float = 1.0, chance: float = 0.5, guidance: float | None = 2.5) -> Shadow:
    """`guidance` is that of a job that names none."""
    return Shadow(
        None,  # type: ignore[arg-type]  # the tests say what it draws
        CERTIFICATE,
        ruler_of(CERTIFICATE.visible),
        share,
        guidance,
        CERTIFICATE.guidance,
        lambda: chance,
    )


def small(**changes: object) -> Job:
    return job("a", **{"width": 64, "height": 64, "steps": 4, **changes})


def look(watched: Shadow, *pictures: np.ndarray) -> Shadowed | None:
    """The pipeline as it was draws these."""
    left = list(pictures)
    return watched.look(lambda job: left.pop(0))


def compared(differ: int, alike: int = 0) -> Shadowed:
    return Shadowed(alpha=0.05, differ=(True,) * differ + (False,) * alike)


# ---- what is drawn twice


@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        ({}, True),
        ({"guidance": 2.5}, True),
        ({"guidance": 7.0}, False),
        ({"steps": 30}, False),
        ({"width": 128}, False),
        ({"lora": "style"}, False),
        ({"image": b"picture"}, False),
    ],
)
def test_only_what_the_certificate_speaks_of_is_drawn_twice(
    changes: dict[str, object], noted: bool
) -> None:
    watched = shadow()
    watched.note(small(**changes), GREY)
    assert (look(watched, GREY) is not None) is noted


def test_a_request_without_guidance_has_the_servers() -> None:
    watched = shadow(guidance=7.0)  # as with --guidance 7
    watched.note(small(), GREY)
    assert watched.noted == []
    watched.note(small(guidance=2.5), GREY)
    assert len(watched.noted) == 1


@pytest.mark.parametrize(("chance", "noted"), [(0.009, 1), (0.011, 0)])
def test_it_is_the_share_that_was_named(chance: float, noted: int) -> None:
    watched = shadow(share=0.01, chance=chance)
    watched.note(small(), GREY)
    assert len(watched.noted) == noted


def test_pairs_are_counted_by_the_certificates_own_rule() -> None:
    watched = shadow()
    for _ in range(2):
        watched.note(small(), GREY)
    # 10 grey levels are the limit
    assert look(watched, GREY + 9, GREY + 11) == Shadowed(alpha=0.05, differ=(False, True))
    assert look(watched) is None


def test_a_picture_that_cannot_be_drawn_again_costs_no_other_its_comparison() -> None:
    watched = shadow()
    for name in ("a", "b"):
        watched.note(small(prompt=name), GREY)

    def again(job: Job) -> np.ndarray:
        if job.prompt == "a":
            raise RuntimeError("out of luck")
        return GREY

    seen = watched.look(again)
    assert seen is not None
    assert seen.differ == (False,)
    assert "out of luck" in seen.trouble


# ---- the alarm


def test_no_alarm_while_the_share_is_what_was_certified() -> None:
    rng = np.random.default_rng(0)
    watch = CertificateWatch()
    assert not any(watch.hear(compared(*hit)) for hit in hits(rng.random(3000) < 0.05))


def test_an_alarm_once_where_more_pictures_differ() -> None:
    rng = np.random.default_rng(0)
    watch = CertificateWatch()
    (alarm,) = [text for hit in hits(rng.random(600) < 0.25) for text in watch.hear(compared(*hit))]
    assert "contradict the 5.0% that was certified" in alarm
    assert "halftime tune --visible" in alarm


def hits(differ: np.ndarray) -> list[tuple[int, int]]:
    return [(int(one), int(not one)) for one in differ]


def test_what_is_never_drawn_again_is_an_alarm_once() -> None:
    watch, trouble = CertificateWatch(), Shadowed(alpha=0.05, trouble="no memory")
    (alarm,) = watch.hear(trouble)
    assert "nothing watches" in alarm
    assert "no memory" in alarm
    assert watch.hear(trouble) == []


ENOUGH = 6  # that differ one after another, for the alarm
DONE = BatchDone(resident_bytes=1)


def test_so_many_are_enough() -> None:
    watch = CertificateWatch()
    assert not watch.hear(compared(ENOUGH - 1))
    assert watch.hear(compared(1))


@pytest.mark.parametrize(("on_drift", "workers"), [("alarm", 1), ("exact", 2)])
def test_an_operator_sees_it_and_may_have_the_exact_recipe(on_drift: str, workers: int) -> None:
    async def check(engine: Engine, links: list[FakeLink]) -> None:
        await events_of(engine, job("first"))
        links[0].say(compared(0, 40), compared(1), DONE)
        await settle()
        assert (engine.status.shadowed, engine.status.shadow_different) == (41, 1)
        assert len(links) == 1
        links[0].say(compared(20), DONE)
        await settle()
        (alarm,) = engine.status.alarms  # that another worker was started is none
        assert "does not hold" in alarm
        assert engine.status.alarm_count == 1
        assert len(links) == workers
        assert [slot.settings.exact for slot in engine.slots] == [workers == 2]
        assert names(await events_of(engine, job("next")))[-1] == "Final"

    on_engine(check, on_drift=on_drift)


def on_engine(
    check: Callable[[Engine, list[FakeLink]], Awaitable[None]], **changes: object
) -> None:
    """`changes` of its settings; 'answer' of its workers."""
    fakes = Fakes(changes.pop("answer", good))  # type: ignore[arg-type]

    async def run() -> None:
        async with fakes.engine(shadow=0.01, **changes) as engine:
            await check(engine, fakes.links)

    asyncio.run(run())


def test_what_was_seen_outlives_the_worker_that_saw_it() -> None:
    async def check(engine: Engine, links: list[FakeLink]) -> None:
        links[0].say(compared(ENOUGH - 1))
        await settle()
        links[0].die()
        await settle()
        assert engine.status.shadowed == ENOUGH - 1
        links[1].say(compared(1))
        await settle()
        assert engine.status.shadowed == ENOUGH
        assert "does not hold" in engine.status.alarms[-1]

    on_engine(check)


def test_all_workers_are_watched_together_and_go_over_one_after_another() -> None:
    async def check(engine: Engine, links: list[FakeLink]) -> None:
        links[0].say(compared(ENOUGH - 1))
        links[1].say(compared(1))
        await settle()
        # each is ready at once, so both were replaced; none died
        assert [link.killed for link in links] == [True, True, False, False]
        assert [slot.settings.exact for slot in engine.slots] == [True, True]
        assert [slot._deaths for slot in engine.slots] == [0, 0]
        assert engine.status.state == "ready"

    on_engine(check, workers=2, on_drift="exact")


def test_the_second_goes_over_when_the_first_is_ready_again() -> None:
    fakes = Fakes(good)

    async def run() -> None:
        async with fakes.engine(shadow=0.01, workers=2, on_drift="exact") as engine:
            fakes.ready = False  # those that come take their time
            fakes.links[0].say(compared(ENOUGH))
            await settle()
            assert [link.killed for link in fakes.links] == [True, False, False]
            assert engine.status.state == "ready"
            assert names(await events_of(engine, job("meanwhile")))[-1] == "Final"
            fakes.links[2].say(READY)
            await settle()
            assert [link.killed for link in fakes.links] == [True, True, False, False]

    asyncio.run(run())


def test_a_picture_that_is_drawn_is_finished_before_its_worker_is_replaced() -> None:
    async def check(engine: Engine, links: list[FakeLink]) -> None:
        stream = engine.submit(job("long"))
        await settle()
        (drawing,) = [link for link in links if link.tasks]
        (idle,) = [link for link in links if not link.tasks]
        idle.say(compared(ENOUGH))
        await settle()
        assert (drawing.killed, idle.killed) == (False, True)
        drawing.say(good(job("long")), DONE)
        assert names([event async for event in stream])[-1] == "Final"
        await settle()
        assert drawing.killed
        assert engine.status.retried == 0

    on_engine(check, workers=2, on_drift="exact", answer=None)


# ---- the worker's pipeline


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline = halftime.load_pipeline()
    recipe = Recipe(
        fixes=(EXACT, APPROXIMATE),
        architecture=architecture(pipeline),
        certificate=msgspec.structs.replace(CERTIFICATE, weights=weights_of(pipeline)),
    )
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    write_toml(path, recipe)
    return path


def settings_for(recipe: Path, **changes: object) -> EngineSettings:
    values = {"sizes": ((64, 64),), "steps": (4,), "tiny_vae": None, **changes}
    return EngineSettings(recipe=str(recipe), **values)  # type: ignore[arg-type]


def drawn(settings: EngineSettings) -> tuple[np.ndarray, Sequence[str], np.ndarray | None]:
    """A picture under these settings, the fixes, and the shadow's picture of the same job."""
    studio = open_studio(settings)
    asked = small(guidance=2.5)
    beats: list[None] = []
    studio.beat = lambda: beats.append(None)
    with studio.stack:
        picture = studio.draw([asked], Watch([asked], lambda: [asked])).pictures[0]
        beats.clear()
        again = studio.draw_again(asked) if studio.shadow is not None else None
    # it may take much longer than the recipe's, and a worker without a sign of life is ended
    assert len(beats) == (0 if again is None else 4)
    return picture, studio.fixes, again


def test_the_shadow_draws_what_the_pipeline_drew_before_its_recipe(recipe_file: Path) -> None:
    cheap, fixes, again = drawn(settings_for(recipe_file, shadow=0.5))
    exact, fewer, none = drawn(settings_for(recipe_file, shadow=0.5, exact=True))
    assert (list(fixes), list(fewer)) == (["known-device", "tiny-vae"], ["known-device"])
    assert none is None
    assert again is not None
    assert np.array_equal(again, exact)
    assert not np.array_equal(cheap, exact)


def test_the_exact_part_of_a_recipe_has_no_certificate(recipe_file: Path) -> None:
    assert exact_part(Plan(fixes=(EXACT, APPROXIMATE))) == Plan(fixes=(EXACT,))


# ---- refusals


def test_without_a_certificate_there_is_nothing_to_watch(tmp_path: Path, recipe_file: Path) -> None:
    pipeline = halftime.load_pipeline()
    plan = tmp_path / "plan.toml"
    write_toml(plan, Plan(fixes=(EXACT,)))
    for settings in (EngineSettings(shadow=0.01), settings_for(plan, shadow=0.01)):
        with pytest.raises(BadInput, match="no certificate to watch"):
            shadow_of(pipeline, settings, 2.5, 2.5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scheduling": "step"}, "with --scheduling call only"),
        ({"sizes": ((128, 128),)}, "nothing that the server offers is certified: that is 64x64, 4"),
        ({"steps": (10, 30)}, "with --sizes 64x64 --steps 4, or leave --shadow out"),
    ],
)
def test_where_no_picture_could_be_compared_it_is_refused(
    changes: dict[str, object], reason: str, recipe_file: Path
) -> None:
    settings = settings_for(recipe_file, **{"shadow": 0.01, **changes})
    with pytest.raises(BadInput, match=reason):
        shadow_of(None, settings, 2.5, 2.5)  # type: ignore[arg-type]  # it is not needed for that


def test_the_share_is_written_as_a_share() -> None:
    values = {"sizes": None, "steps": "4", "frames": None, "queue": 4}
    assert _engine_settings(None, "60s", {**values, "shadow": "2%"}).shadow == 0.02
    assert _engine_settings(None, "60s", dict(values)).shadow == 0.0
    with pytest.raises(BadInput, match="not a share"):
        _engine_settings(None, "60s", {**values, "shadow": "2"})
    with pytest.raises(BadInput, match="must be 100% or less"):
        _engine_settings(None, "60s", {**values, "shadow": "150%"})


def test_what_follows_an_alarm_needs_something_that_raises_it() -> None:
    values = {"sizes": None, "steps": "4", "frames": None, "queue": 4, "on_drift": "exact"}
    with pytest.raises(BadInput, match="add --shadow 1%"):
        _engine_settings(None, "60s", dict(values))
    assert _engine_settings(None, "60s", {**values, "shadow": "0%"}).shadow == 0
