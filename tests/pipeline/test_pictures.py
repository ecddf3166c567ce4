"""Which argument takes a picture, and which calls cannot do without one."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import halftime
from halftime.base.errors import BadWorkload
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.pictures import check_pictures
from halftime.pipeline.signature import call_parameters
from halftime.records import Workload
from tiny_pipelines import BREADTH, FAMILIES, PIPELINES
from tiny_pipelines.unbuilt import exported, is_deprecated


@pytest.fixture
def file(tmp_path: Path) -> str:
    Image.new("RGB", (48, 48), (200, 30, 30)).save(tmp_path / "red.png")
    return str(tmp_path / "red.png")


# class name -> what --image, --mask, --control-image and --video go to
WHERE: dict[str, dict[str, str]] = {
    "StableDiffusionImg2ImgPipeline": {"image": "image"},
    "StableDiffusionXLInpaintPipeline": {"image": "image", "mask": "mask_image"},
    "StableDiffusionXLControlNetPipeline": {"control_image": "image", "image": "image"},
    "FluxControlNetPipeline": {"control_image": "control_image"},
    "FluxControlInpaintPipeline": {
        "image": "image",
        "mask": "mask_image",
        "control_image": "control_image",
    },
    "WanVACEPipeline": {"image": "reference_images", "mask": "mask", "video": "video"},
    "WanVideoToVideoPipeline": {"video": "video"},
    "WanImageToVideoPipeline": {"image": "image"},
    "EasyAnimateInpaintPipeline": {"video": "video", "mask": "mask_video"},
    "AnimateDiffControlNetPipeline": {"video": "conditioning_frames"},
    "CogVideoXFunControlPipeline": {"video": "control_video"},
    "JoyImageEditPlusPipeline": {"image": "images"},
    "OmniGenPipeline": {"image": "input_images"},
}


def unbuilt(name: str) -> object:
    """An instance without components: signatures are read off its class."""
    kind = type(name, (exported()[name],), {"components": {"controlnet": None}})
    return object.__new__(kind)


@pytest.mark.parametrize("name", WHERE)
def test_where_pictures_go(name: str, file: str) -> None:
    from halftime.pipeline.pictures import PICTURE_INPUTS, argument_of

    pipeline = unbuilt(name)
    parameters = call_parameters(pipeline)  # type: ignore[arg-type]
    for entry in PICTURE_INPUTS:
        if entry.field in WHERE[name]:
            assert argument_of(entry, pipeline, parameters) == WHERE[name][entry.field]  # type: ignore[arg-type]


def needs(pipeline: object) -> str:
    try:
        check_pictures(pipeline, (), call_parameters(pipeline))  # type: ignore[arg-type]
    except BadWorkload as error:
        return str(error)
    return ""


def test_every_class_of_diffusers_that_works_on_pictures_asks_for_one() -> None:
    """By its name; a call that only may take one does not."""
    named = re.compile(
        r"Img2Img|Inpaint|Image2Video|ImageToVideo|VideoToVideo|ControlNet|Upscale|Edit(Plus)?Pip"
        r"|Pix2Pix|Depth2Img|SuperRes|FluxFill|Marigold|ImageVariation"
    )
    # given a picture in another way, or none at all
    excused = {"EasyAnimateInpaintPipeline", "StableAudio3InpaintPipeline"}
    plain = {
        *("StableDiffusionXLPipeline", "FluxPipeline", "StableDiffusion3Pipeline", "WanPipeline"),
        *("Flux2Pipeline", "FluxKontextPipeline", "WanVACEPipeline", "LTXConditionPipeline"),
        *("StableCascadeCombinedPipeline", "KandinskyV22CombinedPipeline", "AudioLDM2Pipeline"),
    }
    current = {name for name, kind in exported().items() if not is_deprecated(kind)}
    asking = {name for name in current if "Modular" not in name and needs(unbuilt(name))}
    on_pictures = {name for name in current if named.search(name) and "Modular" not in name}
    assert on_pictures - asking - excused == {
        name for name in on_pictures if name.startswith("LEditsPP")
    }
    assert not asking & plain


@pytest.mark.parametrize(
    ("name", "table", "complaint"),
    [
        ("sd15_img2img", PIPELINES, r"needs image, and none was given\. Give --image FILE, or"),
        ("sd15_controlnet", PIPELINES, r"needs image, .* Give --control-image FILE"),
        ("sd15_inpaint", PIPELINES, r"needs image and mask_image, .* --image FILE and --mask FILE"),
        ("wan_video_to_video", FAMILIES, r"needs video, .* Give --video FILE"),
        ("flux_fill", FAMILIES, r"needs image and mask_image"),
        ("cosmos3", BREADTH, ""),
    ],
)
def test_a_missing_picture_is_refused_with_its_option(
    name: str, table: dict, complaint: str
) -> None:
    pipeline = table[name].build()
    if complaint:
        with pytest.raises(BadWorkload, match=complaint):
            call_arguments(pipeline, Workload())
    else:
        call_arguments(pipeline, Workload())
    call_arguments(pipeline, Workload(), table[name].extra())


def test_what_a_pipeline_would_have_made_of_the_picture_is_enough() -> None:
    pipeline = unbuilt("StableUnCLIPImg2ImgPipeline")
    assert "needs image" in needs(pipeline)
    check_pictures(pipeline, ("image_embeds",), call_parameters(pipeline))  # type: ignore[arg-type]


def test_one_of_two_is_enough_where_the_call_says_either() -> None:
    pipeline = unbuilt("CosmosVideoToWorldPipeline")
    assert "needs image or video" in needs(pipeline)
    check_pictures(pipeline, ("video",), call_parameters(pipeline))  # type: ignore[arg-type]


def test_a_picture_that_nothing_takes(file: str) -> None:
    sd15 = PIPELINES["sd15"].build()
    with pytest.raises(BadWorkload, match=r"takes no image: .* --set ip_adapter_image=@FILE"):
        call_arguments(sd15, Workload(image=(file,)))
    with pytest.raises(BadWorkload, match=r"takes no mask: .* It takes: --image FILE"):
        call_arguments(PIPELINES["sd15_img2img"].build(), Workload(mask=file))
    both = Workload(image=(file,), control_image=(file,))
    with pytest.raises(BadWorkload, match="give either --image or --control-image"):
        call_arguments(PIPELINES["sd15_controlnet"].build(), both)


def test_a_call_that_draws_in_the_size_of_its_picture_gets_it_in_the_workloads(file: str) -> None:
    pipeline = PIPELINES["sd15_img2img"].build()
    arguments = call_arguments(pipeline, Workload(image=(file,), width=32, height=16))
    assert arguments["image"].size == (32, 16)
    assert "width" not in arguments
    pipeline = PIPELINES["sd15_controlnet"].build()
    arguments = call_arguments(pipeline, Workload(control_image=(file,), width=32, height=16))
    assert (arguments["image"].size, arguments["width"]) == ((48, 48), 32)


def test_profile_takes_pictures_and_tells_them_by_content(file: str) -> None:
    """It measured everything before, and failed where the session was written."""
    pipeline = PIPELINES["sd15_inpaint"].build()
    extra = PIPELINES["sd15_inpaint"].extra()
    session = halftime.profile(
        pipeline, runs=1, warmup=0, probes=False, num_inference_steps=2, **extra
    )
    assert session.workload.contents["mask_image"].startswith("float32 1x1x32x32 ")
    assert session.workload.arguments["output_type"] == "np"
    assert session.workload.steps == 2
    assert session.workload_hash == session.workload.content_hash()
    with pytest.raises(BadWorkload, match="takes no imgae"):
        halftime.profile(pipeline, imgae=torch.zeros(1))


# ---- embeddings instead of text


def test_a_pipeline_without_text_encoders_draws_from_embeddings() -> None:
    pipeline = PIPELINES["sd15"].build()
    with torch.no_grad():
        embeds, negative = pipeline.encode_prompt("a cat", "cpu", 1, True)
    pipeline.register_modules(text_encoder=None, tokenizer=None)
    with pytest.raises(BadWorkload, match=r"has no text_encoder, .* --set prompt_embeds=@FILE"):
        call_arguments(pipeline, Workload())
    further = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    arguments = call_arguments(pipeline, Workload(steps=2, width=32, height=32), further)
    assert "prompt" not in arguments
    assert pipeline(**arguments).images[0].size == (32, 32)
    two = {name: torch.cat([value] * 2) for name, value in further.items()}
    assert len(call_arguments(pipeline, Workload(), two)["generator"]) == 2


def test_an_encoder_that_is_left_out_beside_others_is_no_matter() -> None:
    components = {"text_encoder": object(), "text_encoder_3": None}
    pipeline = SimpleNamespace(components=components)

    class Pipeline:
        def __call__(self, prompt: str, prompt_embeds: object = None) -> None: ...

    pipeline = type("Wrapper", (Pipeline,), {"components": components})()
    assert "prompt" in call_arguments(pipeline, Workload())
