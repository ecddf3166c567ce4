"""The bundled model: its classes, its prompts, its size, and that it never asks the network."""

import collections
import os
import re
import socket
import subprocess
import sys

import pytest

from halftime import bundled


def test_importing_it_imports_no_torch() -> None:
    code = "import sys; from halftime import bundled; bundled.prompts(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_500_prompts_split_evenly_over_three_styles() -> None:
    prompts = bundled.prompts()
    assert len(prompts) == len({p.text for p in prompts}) == 500
    assert sorted(collections.Counter(p.style for p in prompts).values()) == [166, 167, 167]
    assert all(p.object in p.text for p in prompts)


def test_the_hash_of_the_prompts_has_not_moved() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", bundled.prompts_hash())


def test_all_of_it_is_at_most_25_mb() -> None:
    total = sum(f.stat().st_size for f in bundled.FOLDER.rglob("*") if f.is_file() and f.suffix != ".pyc")
    assert total <= 25_000_000


@pytest.fixture(scope="module")
def offline() -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the bundled model reached for the network")

    patch.setattr(socket.socket, "connect", refuse)
    patch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    yield patch
    patch.undo()


@pytest.fixture(scope="module")
def pipeline(offline: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    pipeline = bundled.load()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_its_classes_are_sdxls(pipeline) -> None:  # type: ignore[no-untyped-def]
    assert {name: type(part).__name__ for name, part in pipeline.components.items() if part is not None} == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "EulerDiscreteScheduler",
    }
    assert pipeline.unet.config.addition_embed_type == "text_time"


def test_a_call_without_a_size_gives_128_px(pipeline) -> None:  # type: ignore[no-untyped-def]
    picture = pipeline("a flat icon of a blue car on a white background", num_inference_steps=2).images[0]
    assert picture.size == (128, 128)
