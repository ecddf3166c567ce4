"""A checkpoint that lacks weights is refused: what the libraries fill in is random."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
import transformers.utils.logging
from safetensors.torch import load_file, save_file

from halftime import bundled
from halftime.base.errors import UnknownModel
from halftime.pipeline.pretrained import load_folder
from halftime.pipeline.random_weights import random_weights_refused
from halftime.records import Workload

FILES = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
}


def without_a_weight(folder: Path, component: str) -> str:
    """A copy of the bundled model in `folder`, less one weight; its name."""
    shutil.copytree(bundled.MODEL, folder)
    file = folder / component / FILES[component]
    weights = load_file(file)
    name = next(name for name in weights if "norm" in name and name.endswith("weight"))
    save_file({k: v for k, v in weights.items() if k != name}, file, {"format": "pt"})
    return name


@pytest.mark.parametrize("component", FILES)
@pytest.mark.parametrize("verbosity", ["error", "warning"])
def test_a_weight_that_is_not_in_the_files(
    component: str, verbosity: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = transformers.utils.logging.get_verbosity()
    request.addfinalizer(lambda: transformers.utils.logging.set_verbosity(before))
    getattr(transformers.utils.logging, f"set_verbosity_{verbosity}")()
    name = without_a_weight(tmp_path / "model", component)
    last_words = ".".join(name.split(".")[-2:])
    with pytest.raises(UnknownModel, match=rf"(CLIPTextModel|UNet2D\w+) \([\w.]*{last_words}\)"):
        load_folder(tmp_path / "model", Workload())


def test_a_whole_checkpoint_is_loaded_alike_each_time() -> None:
    """Also by the oldest transformers, which knows other names of weights than the newest."""
    first, second = (load_folder(bundled.MODEL, Workload()) for _ in range(2))
    for name in ("text_encoder", "text_encoder_2", "unet", "vae"):
        left, right = (getattr(part, name).state_dict() for part in (first, second))
        assert all(torch.equal(left[key], right[key]) for key in left)


def report(logger: logging.Logger) -> None:
    with random_weights_refused("x"):
        logger.warning("these are newly initialized")
        logger.error("another")


def test_what_the_user_turned_off_stays_off(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("diffusers")
    shown: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: shown.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    try:
        with pytest.raises(UnknownModel, match="lack weights of a model"):
            report(logger.getChild("models"))
        assert (shown, logger.level, handler.level) == (["another"], logging.ERROR, logging.NOTSET)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
