"""Which argument of a pipeline's call takes a picture, a mask, a control picture or a film, and
which of them it cannot do without."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from halftime.base.errors import BadWorkload
from halftime.pipeline import inputs
from halftime.pipeline.signature import CallParameters, call_parameters
from halftime.records import Workload
from halftime.records.stages import place_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class PictureInput(NamedTuple):
    """A field of the workload, its option, and the arguments that it may go to, the first that a
    call takes."""

    field: str
    option: str
    arguments: tuple[str, ...]


PICTURE_INPUTS = (
    PictureInput(
        "image",
        "--image FILE",
        (
            *("image", "images", "input_image", "input_images", "init_image"),
            *("reference_image", "reference_images", "ref_image", "cond_image", "example_image"),
        ),
    ),
    PictureInput("mask", "--mask FILE", ("mask_image", "mask", "mask_video", "control_mask")),
    PictureInput(
        "control_image",
        "--control-image FILE",
        (
            *("control_image", "conditioning_image", "condtioning_image"),
            *("control_video", "conditioning_frames", "pose_video"),
        ),
    ),
    PictureInput(
        "video", "--video FILE", ("video", "control_video", "conditioning_frames", "pose_video")
    ),
)
# What a ControlNet of the first kind calls the picture that controls it.
_CONTROLLING = ("controlnet", "adapter")
# Arguments whose value is a list of pictures, and those whose value is a list of frames.
_LISTS = ("images", "input_images", "reference_images", "conditioning_frames")
_FILMS = ("control_video", "mask_video", "pose_video", "face_video", "conditioning_frames")

# ---- what diffusers' signatures do not say: classes, by name, whose arguments look optional and
# are not, look needed and are not, or of which any one is enough

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "AnimateDiffControlNetPipeline": ("conditioning_frames",),
    "AnimateDiffSparseControlNetPipeline": ("conditioning_frames",),
    "AnimateDiffVideoToVideoControlNetPipeline": ("conditioning_frames",),
    "BriaFiboEditPipeline": ("image",),
    "CogVideoXFunControlPipeline": ("control_video",),
    "Flux2KleinInpaintPipeline": ("image", "mask_image"),
    "FluxFillPipeline": ("image", "mask_image"),
    "FluxKontextInpaintPipeline": ("image",),
    "HunyuanImageRefinerPipeline": ("image",),
    "JoyImageEditPipeline": ("image",),
    "JoyImageEditPlusPipeline": ("images",),
    "LTX2LatentUpsamplePipeline": ("video",),
    "LTXLatentUpsamplePipeline": ("video",),
    "LongCatImageEditPipeline": ("image",),
    "QwenImageEditInpaintPipeline": ("image",),
    "QwenImageEditPipeline": ("image",),
    "QwenImageEditPlusPipeline": ("image",),
    "QwenImageLayeredPipeline": ("image",),
    "VisualClozeGenerationPipeline": ("image",),
    "VisualClozePipeline": ("image",),
}
_NOT_NEEDED = (
    "EasyAnimateControlPipeline",
    "EasyAnimateInpaintPipeline",
    "LTXConditionPipeline",
    "OmniGenPipeline",
    "StableCascadeCombinedPipeline",
    "StableCascadePriorPipeline",
)
_ANY_OF = ("Cosmos2VideoToWorldPipeline", "CosmosVideoToWorldPipeline")


def picture_arguments(
    pipeline: DiffusionPipeline, workload: Workload, parameters: CallParameters
) -> dict[str, object]:
    """Argument -> what the workload's files hold for it. Raises BadWorkload where the call takes
    nothing of that kind, and BadFile."""
    arguments: dict[str, object] = {}
    for entry in PICTURE_INPUTS:
        files = getattr(workload, entry.field)
        if not files:
            continue
        name = argument_of(entry, pipeline, parameters)
        if name in arguments:
            raise BadWorkload(
                f"{type(pipeline).__name__} takes one picture, as {name!r}: give either --image or "
                "--control-image."
            )
        arguments[name] = _value(entry, name, [files] if isinstance(files, str) else files)
    return _resized(arguments, workload, parameters)


def takes_pictures(pipeline: DiffusionPipeline, field: str) -> bool:
    """Whether the call takes something of that kind ('image', 'mask' …), or may."""
    entry = next(entry for entry in PICTURE_INPUTS if entry.field == field)
    parameters = call_parameters(pipeline)
    return parameters.takes_anything or bool({*entry.arguments} & {*parameters.names})


def argument_of(
    entry: PictureInput, pipeline: DiffusionPipeline, parameters: CallParameters
) -> str:
    """The argument that an option goes to. Raises BadWorkload where there is none."""
    for name in entry.arguments:
        if name in parameters.names:
            return name
    if entry.field == "control_image" and "image" in parameters.names and _is_controlled(pipeline):
        return "image"
    if parameters.takes_anything:
        return entry.arguments[0]
    takes = [
        option
        for option in PICTURE_INPUTS
        if {*option.arguments} & {*parameters.names} and option is not entry
    ]
    raise BadWorkload(
        f"{type(pipeline).__name__} takes no {entry.field}: its call has none of "
        f"{', '.join(entry.arguments[:3])}. {_what_it_takes(takes, entry, parameters)}"
    )


def _what_it_takes(
    takes: Sequence[PictureInput], entry: PictureInput, parameters: CallParameters
) -> str:
    if takes:
        return f"It takes: {', '.join(option.option for option in takes)}."
    near = difflib.get_close_matches(f"ip_adapter_{entry.field}", parameters.names, n=1)
    other_way = f"; an IP-Adapter's picture goes in by --set {near[0]}=@FILE" if near else ""
    return f"It takes no pictures at all{other_way}."


def _is_controlled(pipeline: DiffusionPipeline) -> bool:
    return any(
        word in name for name in getattr(pipeline, "components", {}) for word in _CONTROLLING
    )


def _value(entry: PictureInput, name: str, files: Sequence[str]) -> object:
    read: Callable[[str], object] = (
        inputs.video
        if entry.field == "video" or (name in _FILMS and len(files) == 1)
        else inputs.picture_or_video
    )
    values = [read(file) for file in files]
    return values if len(values) > 1 or (name in _LISTS and name not in _FILMS) else values[0]


def _resized(
    arguments: dict[str, object], workload: Workload, parameters: CallParameters
) -> dict[str, object]:
    """A call without width and height draws in the size of its pictures: they get the workload's
    size there."""
    width, height = workload.width, workload.height
    if width is None or height is None or {"width", "height"} & {*parameters.names}:
        return arguments
    return {name: _in_size(value, (width, height)) for name, value in arguments.items()}


def _in_size(value: object, size: tuple[int, int]) -> object:
    if isinstance(value, list):
        return [_in_size(item, size) for item in value]
    return value.resize(size) if isinstance(value, Image.Image) else value


def draws_in_the_size_of_its_pictures(workload: Workload, parameters: CallParameters) -> bool:
    """Whether the workload's size is that of the pictures that go in."""
    files = any(getattr(workload, entry.field) for entry in PICTURE_INPUTS)
    return files and not {"width", "height"} & {*parameters.names}


# ---- what a call cannot do without


def check_pictures(
    pipeline: DiffusionPipeline, arguments: Collection[str], parameters: CallParameters
) -> None:
    """Raises BadWorkload, naming the option, where the call needs a picture and gets none."""
    kinds = {base.__name__ for base in type(pipeline).__mro__}
    missing = [
        name for name in _needed(kinds, parameters) if not _given(name, arguments, parameters)
    ]
    any_is_enough = bool(kinds & {*_ANY_OF})
    if not missing or (any_is_enough and len(missing) < len(_needed(kinds, parameters))):
        return
    words = " or " if any_is_enough else " and "
    options = words.join(dict.fromkeys(_option_of(name, pipeline, parameters) for name in missing))
    raise BadWorkload(
        f"{type(pipeline).__name__} needs {words.join(missing)}, and none was given. Give "
        f"{options}, or {missing[0]}=… from Python."
    )


def _needed(kinds: Collection[str], parameters: CallParameters) -> list[str]:
    names = [name for entry in PICTURE_INPUTS for name in entry.arguments]
    names += ["original_image", "face_video"]
    also = [name for kind in kinds for name in _NEEDED.get(kind, ())]
    if {*kinds} & {*_NOT_NEEDED}:
        return also
    return [name for name in dict.fromkeys(names) if name in parameters.required or name in also]


def _given(name: str, arguments: Collection[str], parameters: CallParameters) -> bool:
    """Whether the picture is there, or what a pipeline would have made of it."""
    made_of_it = (name, f"{name}_embeds", f"{name}_latents", f"masked_{name}_latents")
    return any(word in arguments for word in made_of_it) or (
        name == "mask_image" and "masked_image_latents" in arguments
    )


def _option_of(name: str, pipeline: DiffusionPipeline, parameters: CallParameters) -> str:
    controls = name == "image" and "control_image" not in parameters.names
    if controls and _is_controlled(pipeline):
        return "--control-image FILE"
    return next(
        (entry.option for entry in PICTURE_INPUTS if name in entry.arguments),
        f"--set {name}=@FILE",
    )


def text_encoders(pipeline: DiffusionPipeline) -> dict[str, object]:
    """Name -> text encoder, also of those that were left out (None)."""
    return {
        name: component
        for name, component in getattr(pipeline, "components", {}).items()
        if (home := place_of(name)) is not None and home.part == "text_encoder"
    }
