"""A worker that is started again takes compiled code from the file that the first one left."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from serve_helpers import running

from halftime.base.errors import BadFile
from halftime.records.serve import Certificate
from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.process import COMMAND
from halftime.verbs.serve.studio import open_studio


async def certified(settings: EngineSettings) -> Certificate:
    async with running(settings, COMMAND) as engine:
        assert engine.status.certificate is not None, engine.status.why
        return engine.status.certificate


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_second_start_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    recipe, file = tmp_path / "plan.toml", tmp_path / "kept" / "plan.artefacts"
    recipe.write_text('[[fixes]]\nname = "vae-compile"\n')
    settings = EngineSettings(
        model="tiny_pipelines.images:sdxl_small_vae",
        recipe=str(recipe),
        artefacts=str(file),
        steps=(2,),
        sizes=((16, 16),),
        max_batch=1,
        img2img=False,
        tiny_vae=None,
        threads=1,
        guidance=1.0,
    )
    first = asyncio.run(certified(settings))
    assert first.cold_start is not None
    assert first.cold_start.artefacts is None
    before = file.read_bytes()
    second = asyncio.run(certified(settings))
    assert second.cold_start is not None
    assert second.cold_start.artefacts == str(file)
    assert file.read_bytes() == before
    assert not list((tmp_path / "tmp").glob("halftime-artefacts-*"))
    file.write_bytes(before[:100])
    with pytest.raises(BadFile, match="damaged"):  # of which a worker says that it cannot serve
        open_studio(settings)
