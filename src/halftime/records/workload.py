"""What was run: prompts x size x steps x seeds."""

from __future__ import annotations

from halftime.records.base import Json, Record, content_hash


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
    device: str = "cpu"
    arguments: dict[str, Json] = {}  # further keyword arguments of the pipeline's call

    def content_hash(self) -> str:
        """Equal for equal workloads, whatever file they were written in."""
        return content_hash(self)
