"""What clients send and what they get, as OpenAI's images API has it; the OpenAPI document is made
of these classes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from halftime.verbs.serve.files import PictureFormat
from halftime.verbs.serve.messages import OffList

MOST_PICTURES = 10  # as OpenAI's
MOST_PARTIALS = 3
MOST_PROMPT = 4000  # characters; text encoders read far less
MOST_STEPS = 200
# what every JSON reader keeps exactly, and n pictures count up from it
LARGEST_SEED = 2**53 - MOST_PICTURES
ANY_SEED = -1
MOST_RANDOM = 2**32  # a seed by chance is below
VARIATION_STRENGTH = 0.6  # of a variation that names none

ResolvedQuality = Literal["low", "medium", "high"]
Quality = Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"]
Prompt = Annotated[str, Meta(min_length=1, max_length=MOST_PROMPT)]
Pictures = Annotated[int, Meta(ge=1, le=MOST_PICTURES)]
Size = Annotated[str, Meta(pattern="^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")]
Percent = Annotated[int, Meta(ge=0, le=100)]
Partials = Annotated[int, Meta(ge=0, le=MOST_PARTIALS)]
Seed = Annotated[int, Meta(ge=ANY_SEED, le=LARGEST_SEED)]
Steps = Annotated[int, Meta(ge=1, le=MOST_STEPS)]
Guidance = Annotated[float, Meta(ge=0, le=100)]
Deadline = Annotated[float, Meta(ge=0.1, le=86_400)]
LoraScale = Annotated[float, Meta(ge=-4, le=4)]
Strength = Annotated[float, Meta(gt=0, le=1)]
Identifier = Annotated[str, Meta(max_length=512)]


class ImageRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What generation and editing have in common. From `seed` on the fields are halftime's; steps
    and guidance may also be called what diffusers calls them."""

    prompt: Prompt
    model: Identifier | None = None
    n: Pictures | None = None
    size: Size | None = None
    quality: Quality | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: PictureFormat | None = None
    output_compression: Percent | None = None
    stream: bool | None = None
    partial_images: Partials | None = None
    background: Literal["auto", "opaque", "transparent"] | None = None
    user: Identifier | None = None
    safety_identifier: Identifier | None = None
    seed: Seed | None = None
    steps: Steps | None = None
    num_inference_steps: Steps | None = None
    guidance: Guidance | None = None
    guidance_scale: Guidance | None = None
    negative_prompt: Annotated[str, Meta(max_length=MOST_PROMPT)] | None = None
    off_list: OffList | None = None
    lora: Identifier | None = None
    lora_scale: LoraScale | None = None
    deadline_seconds: Deadline | None = None


class GenerateRequest(ImageRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/images/generations."""

    moderation: Literal["auto", "low"] | None = None
    style: Literal["vivid", "natural"] | None = None


class EditRequest(ImageRequest, kw_only=True, forbid_unknown_fields=True):
    """The fields of POST /v1/images/edits beside the picture; `strength` is halftime's: how much is
    drawn anew."""

    strength: Strength | None = None
    input_fidelity: Literal["high", "low"] | None = None


class VariationRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields of POST /v1/images/variations beside the picture; from `strength` on they are
    halftime's."""

    model: Identifier | None = None
    n: Pictures | None = None
    size: Size | None = None
    response_format: Literal["b64_json", "url"] | None = None
    user: Identifier | None = None
    strength: Strength | None = None
    seed: Seed | None = None
    steps: Steps | None = None
    off_list: OffList | None = None

    def as_edit(self) -> EditRequest:
        """The edit that it is: without a prompt, and with a middling strength."""
        fields = msgspec.structs.asdict(self)
        strength = fields.pop("strength") or VARIATION_STRENGTH
        # not through the schema, which asks for a prompt
        return EditRequest(prompt="", strength=strength, **fields)


class VideoRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields of POST /v1/videos beside the picture to start from (`input_reference`). From
    `frames` on they are halftime's."""

    prompt: Prompt
    model: Identifier | None = None
    size: Size | None = None
    seconds: Annotated[str, Meta(pattern="^[0-9]{1,4}([.][0-9]{1,3})?$")] | None = None
    user: Identifier | None = None
    frames: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    seed: Seed | None = None
    steps: Steps | None = None
    guidance: Guidance | None = None
    negative_prompt: Annotated[str, Meta(max_length=MOST_PROMPT)] | None = None
    off_list: OffList | None = None


class VideoError(msgspec.Struct, kw_only=True):
    """Why there is no video."""

    code: str
    message: str


class VideoObject(msgspec.Struct, kw_only=True):
    """A video, made or being made; its times are those of the clock, in seconds since 1970. From
    `seed` on its fields are halftime's."""

    id: str
    created_at: int
    model: str
    seconds: str
    size: str
    seed: int
    frames: int
    fps: float
    status: Literal["queued", "in_progress", "completed", "failed"] = "queued"
    progress: int = 0  # of a hundred: the steps that are done
    prompt: str | None = None
    completed_at: int | None = None
    expires_at: int | None = None
    error: VideoError | None = None
    object: Literal["video"] = "video"
    compute_seconds: float | None = None


class VideoObjects(msgspec.Struct, kw_only=True):
    """GET /v1/videos."""

    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class VideoDeleted(msgspec.Struct, kw_only=True):
    """DELETE /v1/videos/{name}."""

    id: str
    deleted: bool = True
    object: Literal["video.deleted"] = "video.deleted"


class PictureTiming(msgspec.Struct, kw_only=True):
    """Where one picture's time went, in seconds, and what it was drawn with."""

    seed: int
    width: int
    height: int
    steps: int
    queue_seconds: float
    compute_seconds: float
    batch_size: int
    stages: dict[str, float]


class Timing(msgspec.Struct, kw_only=True):
    """halftime's addition to `usage`. `seconds` is the whole request inside the server; the others
    are those of the slowest picture and add up to it."""

    seconds: float
    receive_seconds: float  # until the body was here
    upload_seconds: float  # the picture to start from: decoded, brought to its size
    queue_seconds: float
    compute_seconds: float
    encode_seconds: float
    rest_seconds: float  # pipes, the event loop, everything else
    pictures: list[PictureTiming]


class InputTokens(msgspec.Struct):
    """Zeros: halftime counts no tokens."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(msgspec.Struct, kw_only=True):
    """OpenAI's fields, all zero since halftime counts no tokens, and the stage timings under
    `halftime`."""

    halftime: Timing
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: InputTokens = msgspec.field(default_factory=InputTokens)


class ImageObject(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One picture: its file in base64, or where it is for a while; and the seed that draws it
    again."""

    seed: int
    b64_json: str | None = None
    url: str | None = None


class Snapped(msgspec.Struct, kw_only=True):
    """What was asked for and is not offered, beside what was drawn in its place."""

    requested_size: str
    size: str
    requested_steps: int
    steps: int


class ImagesResponse(msgspec.Struct, kw_only=True):
    """The answer without `stream`. `snapped` is null where everything was drawn as asked for."""

    created: int
    data: list[ImageObject]
    output_format: PictureFormat
    quality: ResolvedQuality
    size: str
    usage: Usage
    snapped: Snapped | None = None
    background: Literal["opaque"] = "opaque"


class PartialEvent(msgspec.Struct, kw_only=True):
    """`image_generation.partial_image` or `image_edit.partial_image`; `step` counts from 1, of
    `steps`; `image_index` says which of n pictures it is, from 0."""

    type: str
    b64_json: str
    partial_image_index: int
    image_index: int = 0
    created_at: int
    output_format: PictureFormat
    quality: ResolvedQuality
    size: str
    step: int
    steps: int
    background: Literal["opaque"] = "opaque"


class CompletedEvent(msgspec.Struct, kw_only=True):
    """`image_generation.completed` or `image_edit.completed`."""

    type: str
    b64_json: str
    created_at: int
    output_format: PictureFormat
    quality: ResolvedQuality
    size: str
    seed: int
    usage: Usage
    image_index: int = 0
    snapped: Snapped | None = None
    background: Literal["opaque"] = "opaque"
