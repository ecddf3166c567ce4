"""What was run: prompts x size x steps x seeds, what goes in, and how the model is loaded."""

from __future__ import annotations

import msgspec

from halftime.records.base import Json, Record, content_hash

# Fields that name files: what is in them is what counts, and `contents` says it.
FILES = ("image", "mask", "control_image", "video")
# Fields that say how the model is loaded, beside its device and dtype.
SOURCE = ("lora", "variant", "revision", "config", "custom_pipeline")
# Fields that came later: where they say nothing, the hash is as it was without them.
_LATER = (*FILES, "contents", *SOURCE)


class Workload(Record, frozen=True, kw_only=True):
    """One reproducible set of calls. `None` means: the pipeline's own default.

    One call draws `len(prompts) * images_per_prompt` pictures, with the seeds `seed`, `seed + 1`, …
    """

    prompts: tuple[str, ...] = ("a 3D render of a red apple on a white background",)
    negative_prompt: str | None = None
    width: int | None = None  # pixels
    height: int | None = None  # pixels
    steps: int = 30
    guidance: float | None = None
    images_per_prompt: int = 1
    seed: int = 0
    scheduler: str | None = None  # a diffusers class name
    dtype: str | None = None  # 'float32', 'bfloat16', 'float16'
    # a torch device; None is the best one here, or where a function's pipeline already is
    device: str | None = None
    # further keyword arguments of the pipeline's call; '@FILE' is what the file holds
    arguments: dict[str, Json] = {}

    # ---- what goes in beside the prompt, by file
    image: tuple[str, ...] = ()
    mask: str | None = None
    control_image: tuple[str, ...] = ()
    video: str | None = None  # a film, or a folder of its frames
    # argument of the call -> kind, size and hash of what it got, where that is no JSON
    contents: dict[str, str] = {}

    # ---- how the model is loaded
    variant: str | None = None  # of its weights' files: 'fp16'
    revision: str | None = None  # branch, tag or commit of a hub id
    config: str | None = None  # the folder that says what a single file is
    custom_pipeline: str | None = None
    lora: tuple[str, ...] = ()  # FILE or FILE:WEIGHT

    def content_hash(self) -> str:
        """Equal for equal workloads, whatever file they were written in, wherever the pictures lie
        that go in, and on whatever device they run: that is the environment's."""
        fields = {
            name: value
            for name, value in msgspec.to_builtins(self).items()
            if name != "device" and (name not in _LATER or value)
        }
        if self.contents:
            fields = {name: value for name, value in fields.items() if name not in FILES}
            fields["arguments"] = {
                name: value for name, value in self.arguments.items() if name not in self.contents
            }
        return content_hash(fields)
