"""What a real pipeline makes of masks, references and LoRAs."""

from __future__ import annotations

import io
from pathlib import Path

import diffusers
import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from serve_helpers import job

from halftime.base.errors import BadInput
from halftime.verbs.serve.messages import EngineSettings, Job
from halftime.verbs.serve.queue import kind_of
from halftime.verbs.serve.stepping import Watch
from halftime.verbs.serve.studio import Studio, open_studio
from halftime.verbs.serve.warmup import Offered, jobs_of, kinds, offered_by

SETTINGS = EngineSettings(model="serve_models:sdxl", steps=(3,), sizes=((32, 32),), tiny_vae=None)


@pytest.fixture(scope="module")
def sdxl() -> Studio:
    return open_studio(SETTINGS)


def small(**changes: object) -> Job:
    return job(**{"name": "a", "width": 32, "height": 32, "steps": 3, **changes})


def draw(studio: Studio, *jobs: Job) -> np.ndarray:
    return studio.draw(jobs, Watch(jobs, lambda: jobs)).pictures


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


GRADIENT = png(Image.linear_gradient("L").resize((32, 32)).convert("RGB"))
WHITE, BLACK = (png(Image.new("L", (32, 32), value)) for value in (255, 0))


def test_what_a_mask_leaves_black_is_not_drawn(sdxl: Studio) -> None:
    """All black keeps the picture's latents, whatever the prompt; all white draws anew."""
    black = small(image=GRADIENT, mask=BLACK, strength=1.0)
    other = msgspec.structs.replace(black, prompt="a blue car and a tree")
    white = msgspec.structs.replace(black, mask=WHITE)
    picture = draw(sdxl, black)
    np.testing.assert_array_equal(draw(sdxl, other), picture)
    assert not np.array_equal(draw(sdxl, white), picture)


def test_masks_are_offered_and_warmed_where_the_pipeline_inpaints(sdxl: Studio) -> None:
    offered = offered_by(sdxl, SETTINGS)
    assert offered.modes == ("text2img", "img2img", "inpaint")
    warmed = [kind for kind in kinds(offered) if kind.mode == "inpaint"]
    assert {kind.batch for kind in warmed} == {1, 2}
    (warm, *_) = jobs_of(warmed[0], 5.0, 0)
    assert warm.mask is not None
    assert warm.image is not None
    without = msgspec.structs.replace(SETTINGS, inpaint=False)
    assert "inpaint" not in open_studio(without).modes


OFFERED = Offered(
    sizes=((32, 32),),
    steps=(3,),
    batches=(1, 2),
    modes=("text2img",),
    branches=("guided",),
    buckets=(),
)


def test_several_references_are_one_list_and_never_shared() -> None:
    studio = open_studio(msgspec.structs.replace(SETTINGS, model="serve_models:flux2_klein"))
    assert studio.references == 4
    requested = small(references=(GRADIENT, WHITE))
    pictures = studio.arguments(studio.modes["img2img"], [requested])["image"]
    assert isinstance(pictures, list)
    assert [picture.size for picture in pictures] == [(32, 32), (32, 32)]
    offered = OFFERED._replace(modes=("text2img", "img2img"), references=4)
    assert {kind.batch for kind in kinds(offered) if kind.mode == "img2img"} == {1}
    assert kind_of(requested) != kind_of(small(name="b", references=(GRADIENT, WHITE)))


def test_kinds_of_a_pipeline_with_loras_hold_each_once() -> None:
    offered = OFFERED._replace(loras=("ink", "paper"))
    assert [kind.lora for kind in kinds(offered)] == [None, None, "ink", "paper"]


# ---- LoRA


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs of the tiny SDXL, as training scripts write them."""
    import serve_models
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    path = tmp_path_factory.mktemp("loras")
    for number, name in enumerate(("ink", "paper v1.5")):
        unet = serve_models.sdxl().unet
        torch.manual_seed(number)
        unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
        diffusers.StableDiffusionXLPipeline.save_lora_weights(
            path, unet_lora_layers=layers, weight_name=f"{name}.safetensors"
        )
    return path


def test_a_lora_is_on_for_its_picture_and_for_no_other(sdxl: Studio, folder: Path) -> None:
    studio = open_studio(msgspec.structs.replace(SETTINGS, loras=str(folder)))
    assert list(studio.loras) == ["ink", "paper v1.5"]
    bare = draw(sdxl, small())
    np.testing.assert_array_equal(draw(studio, small()), bare)
    ink, paper = (draw(studio, small(lora=name)) for name in studio.loras)
    assert not np.array_equal(ink, bare)
    assert not np.array_equal(ink, paper)
    assert not np.array_equal(ink, draw(studio, small(lora="ink", lora_scale=0.5)))
    np.testing.assert_array_equal(draw(studio, small(lora="ink")), ink)
    np.testing.assert_array_equal(draw(studio, small()), bare)


def test_a_lora_that_is_always_on_stays_on_beside_that_of_a_request(
    sdxl: Studio, folder: Path
) -> None:
    always = (f"{folder}/paper v1.5.safetensors:0.5",)
    studio = open_studio(msgspec.structs.replace(SETTINGS, lora=always))
    fixed = draw(studio, small())
    assert not np.array_equal(fixed, draw(sdxl, small()))
    both = open_studio(msgspec.structs.replace(SETTINGS, lora=always, loras=str(folder)))
    np.testing.assert_array_equal(draw(both, small()), fixed)
    assert not np.array_equal(draw(both, small(lora="ink")), fixed)
    np.testing.assert_array_equal(draw(both, small(lora="ink", lora_scale=0.0)), fixed)
    np.testing.assert_array_equal(draw(both, small()), fixed)


def test_a_folder_that_holds_no_lora_of_this_model_is_refused(tmp_path: Path, folder: Path) -> None:
    def opened(**changes: object) -> Studio:
        return open_studio(msgspec.structs.replace(SETTINGS, **changes))

    with pytest.raises(BadInput, match="no folder"):
        opened(loras=str(tmp_path / "nothing"))
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"broken\.safetensors does not fit"):
        opened(loras=str(tmp_path))
