"""Several models behind one address: an engine for each, of which a request's `model` names one."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from halftime.base.errors import BadInput, BadWorkload
from halftime.records.serve import EngineStatus, State
from halftime.verbs.serve.many_engines import ManyEngines
from halftime.verbs.serve.messages import EngineSettings, Event, Job
from halftime.verbs.serve.source import source_of

if TYPE_CHECKING:
    from halftime.verbs.serve.service import DrawingEngine

# In this order the worst of the engines is the server's state: ready is who can draw everything.
_WORST: tuple[State, ...] = ("failed", "stopped", "draining", "starting", "warming", "ready")


class NamedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of a `--models` file."""

    name: str
    engine: EngineSettings
    aliases: tuple[str, ...] = ()


def read_models(path: Path, common: EngineSettings) -> tuple[NamedModel, ...]:
    """The models of a TOML file with a table for each, the default one first. What a table leaves
    out is as in `common`. Raises BadInput."""
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no TOML: {error}. {_SHAPE}") from error
    models = tuple(_model(path, name, table, common) for name, table in tables.items())
    if not models:
        raise BadInput(f"{path} names no model. {_SHAPE}")
    names = [name for model in models for name in (model.name, *model.aliases)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"{path} gives the name {twice!r} to two models.")
    return models


_SHAPE = 'For each model write [NAME], model = "FOLDER or hub id", and where needed sizes, steps, '
_SHAPE += "aliases."


def _model(path: Path, name: str, table: object, common: EngineSettings) -> NamedModel:
    if not isinstance(table, dict):
        raise BadInput(f"{path}: {name} is no table. {_SHAPE}")
    values = dict(table)
    aliases = values.pop("aliases", [])
    unknown = min(set(values) - set(EngineSettings.__struct_fields__), default=None)
    if unknown is not None:
        fields = ", ".join(("aliases", *EngineSettings.__struct_fields__))
        raise BadInput(f"{path}: [{name}] has {unknown!r}, which is none of: {fields}.")
    try:
        values_of_all = {**msgspec.to_builtins(common), "model": None, **values}
        engine = msgspec.convert(values_of_all, EngineSettings)
        source_of(engine)
        return NamedModel(
            name=name, engine=engine, aliases=msgspec.convert(aliases, tuple[str, ...])
        )
    except msgspec.ValidationError as error:
        raise BadInput(f"{path}: [{name}]: {error}.") from error
    except BadWorkload as error:
        raise BadInput(f"{path}: [{name}]: {error}") from error


@dataclass
class ModelEngines:
    """An engine for each model, by its name, the default one first; `aliases` are further names."""

    engines: Mapping[str, DrawingEngine]
    aliases: Mapping[str, str]

    @property
    def default(self) -> str:
        """The model of a request that names none."""
        return next(iter(self.engines))

    def named(self, name: str | None) -> tuple[str, DrawingEngine] | None:
        """The model that goes by a name, and its engine; None where there is none."""
        own = self.aliases.get(name, name) if name else self.default
        engine = self.engines.get(own or "")
        return None if own is None or engine is None else (own, engine)

    @property
    def status(self) -> EngineStatus:
        """All as one: ready once every model is."""
        together = ManyEngines(noun="model")
        together.update({name: engine.status for name, engine in self.engines.items()})
        worst = min(
            (engine.status for engine in self.engines.values()),
            key=lambda status: _WORST.index(status.state),
        )
        return msgspec.structs.replace(together.status, state=worst.state)

    async def start(self) -> None:
        """Start them all."""
        for engine in self.engines.values():
            await engine.start()

    def submit_all(self, jobs: Sequence[Job]) -> Sequence[AsyncIterator[Event]]:
        """For who names no model."""
        return self.engines[self.default].submit_all(jobs)

    async def drain(self, timeout: float) -> None:
        """Side by side, so that one does not use up another's time."""
        await asyncio.gather(*(engine.drain(timeout) for engine in self.engines.values()))
