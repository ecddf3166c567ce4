"""A certificate in production: what is drawn twice, when there is an alarm, and what it does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_link import Fakes, good, settle
from serve_helpers import events_of, job, names

import halftime
from halftime.base.errors import BadInput
from halftime.base.store import write_toml
from halftime.cli.serve import _engine_settings
from halftime.pipeline.architecture import architecture
from halftime.pipeline.fingerprint import weights_of
from halftime.records.certificate import Visible, VisibleCertificate
from halftime.records.recipe import Choice, Plan, Recipe
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import EngineSettings, Job
from halftime.verbs.serve.shadow import Shadow, exact_part, shadow_of
from halftime.verbs.serve.stepping import Watch
from halftime.verbs.serve.studio import as_pixels, open_studio
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


class Again:
    """Stands for the pipeline as it was: gives the pictures that it is told."""

    def __init__(self, *pictures: np.ndarray) -> None:
        self.pictures = list(pictures)

    def __call__(self, **arguments: object) -> np.ndarray:
        return self.pictures.pop(0)[None]


def shadow(*pictures: np.ndarray, share: float = 1.0, chance: float = 0.5) -> Shadow:
    return Shadow(
        Again(*pictures),  # type: ignore[arg-type]
        CERTIFICATE,
        ruler_of(CERTIFICATE.visible),
        share,
        lambda: chance,
    )


def small(**changes: object) -> Job:
    return job("a", **{"width": 64, "height": 64, "steps": 4, **changes})


def look(watched: Shadow) -> Shadowed | None:
    return watched.look(lambda pipeline, jobs: {}, lambda pictures: pictures)  # type: ignore[arg-type, return-value]


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
    watched = shadow(GREY)
    watched.note(small(**changes), GREY)
    assert (look(watched) is not None) is noted


@pytest.mark.parametrize(("chance", "noted"), [(0.009, 1), (0.011, 0)])
def test_it_is_the_share_that_was_named(chance: float, noted: int) -> None:
    watched = shadow(GREY, share=0.01, chance=chance)
    watched.note(small(), GREY)
    assert len(watched.noted) == noted


def test_pairs_are_counted_by_the_certificates_own_rule() -> None:
    watched = shadow(GREY + 9, GREY + 11)  # 10 grey levels are the limit
    for _ in range(2):
        watched.note(small(), GREY)
    assert look(watched) == Shadowed(drawn=2, different=1)
    assert look(watched) is None


# ---- the alarm


def test_no_alarm_while_the_share_is_what_was_certified() -> None:
    watched = shadow()
    rng = np.random.default_rng(0)
    assert not any(watched.count(bool(rng.random() < 0.05)) for _ in range(3000))


def test_an_alarm_once_where_more_pictures_differ() -> None:
    watched = shadow()
    rng = np.random.default_rng(0)
    alarms = [alarm for _ in range(600) if (alarm := watched.count(bool(rng.random() < 0.25)))]
    (alarm,) = alarms
    assert "contradict the 5.0% that was certified" in alarm
    assert "halftime tune --visible" in alarm


@pytest.mark.parametrize(("on_drift", "workers"), [("alarm", 1), ("exact", 2)])
def test_an_operator_sees_it_and_may_have_the_exact_recipe(on_drift: str, workers: int) -> None:
    fakes = Fakes(good)

    async def run() -> None:
        async with fakes.engine(on_drift=on_drift, shadow=0.01) as engine:
            await check(engine)

    async def check(engine: Engine) -> None:
        await events_of(engine, job("first"))
        fakes.links[0].say(Shadowed(drawn=40, different=1), BatchDone(resident_bytes=1))
        await settle()
        assert (engine.status.shadowed, engine.status.shadow_different) == (40, 1)
        assert len(fakes.links) == 1
        fakes.links[0].say(Shadowed(drawn=50, different=20, alarm="it does not hold"))
        await settle()
        assert engine.status.alarms[0] == "it does not hold"
        assert len(fakes.links) == workers
        assert [slot.settings.exact for slot in engine.slots] == [workers == 2]
        assert names(await events_of(engine, job("next")))[-1] == "Final"

    asyncio.run(run())


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
    with studio.stack:
        picture = studio.draw([asked], Watch([asked], lambda: [asked])).pictures[0]
        again = None
        if studio.shadow is not None:
            arguments = studio.arguments(studio.shadow.pipeline, [asked])
            again = as_pixels(studio.shadow.pipeline(**arguments))[0]
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
            shadow_of(pipeline, settings)
    with pytest.raises(BadInput, match="Leave one of the two out"):
        shadow_of(pipeline, settings_for(recipe_file, shadow=0.01, scheduling="step"))


def test_the_share_is_written_as_a_share() -> None:
    values = {"sizes": None, "steps": "4", "frames": None, "queue": 4}
    assert _engine_settings(None, "60s", {**values, "shadow": "2%"}).shadow == 0.02
    assert _engine_settings(None, "60s", dict(values)).shadow == 0.0
    with pytest.raises(BadInput, match="not a share"):
        _engine_settings(None, "60s", {**values, "shadow": "2"})
