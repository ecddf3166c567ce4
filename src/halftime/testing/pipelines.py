"""Public fakes: a pipeline without weights and a clock without waiting, for tests of your code.

clock = FakeClock()
pipeline = FakePipeline(clock, {"unet": 0.07, "vae.decode": 0.2})
pipeline("a prompt", num_inference_steps=30)   # clock.now has moved by what a call costs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from diffusers import DiffusionPipeline
from torch import nn

from halftime.verbs.profile.clock import Mark

# The default costs of FakePipeline's parts, in seconds: the proportions of the founding story.
STORY = {
    "text_encoder": 0.012,
    "unet": 0.07,
    "scheduler.step": 0.003,
    "vae.decode": 0.21,
    "image_processor": 0.004,
}


@dataclass
class FakeClock:
    """A clock that moves only when it is advanced; stands in for the clocks of halftime.profile."""

    now: float = 0.0
    marks: list[float] = field(default_factory=list)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def start(self) -> Mark:
        return self.mark()

    def mark(self) -> Mark:
        self.marks.append(self.now)
        return Mark(self.now)

    def finish(self) -> Mark:
        return self.mark()

    def seconds(self, origin: Mark, marks: Sequence[Mark]) -> list[float]:
        return [mark.host - origin.host for mark in marks]


class FakeModule(nn.Module):
    """A component that takes time and returns its input."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self._clock, self._seconds = clock, seconds

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        self._clock.advance(self._seconds)
        return sample


class FakeVAE(FakeModule):
    """A VAE by what pipelines call of it."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.forward(latents)


class FakeScheduler:
    """A scheduler by what pipelines call of it."""

    config: Mapping[str, object] = {}

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds
        self.timesteps: list[int] = []

    def set_timesteps(self, num_inference_steps: int) -> None:
        self.timesteps = list(range(num_inference_steps))

    def step(self, output: torch.Tensor, timestep: int, sample: torch.Tensor) -> torch.Tensor:
        self._clock.advance(self._seconds)
        return sample


class FakeImageProcessor:
    """An image processor by what pipelines call of it."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds

    def postprocess(self, image: torch.Tensor) -> torch.Tensor:
        self._clock.advance(self._seconds)
        return image


class FakePipeline(DiffusionPipeline):  # type: ignore[misc]
    """A text-to-image pipeline whose parts take as long as `costs` says: no weights, no sleeping.

    Keys of `costs`: 'text_encoder', 'unet', 'scheduler.step', 'vae.decode', 'image_processor', and
    'glue', the time between the components of a step. `fail_at` raises RuntimeError in that
    denoising step.
    """

    def __init__(
        self, clock: FakeClock, costs: Mapping[str, float] = STORY, fail_at: int | None = None
    ) -> None:
        super().__init__()
        self._clock, self._costs, self._fail_at = clock, dict(costs), fail_at
        cost = self._costs.get
        self.register_modules(
            text_encoder=FakeModule(clock, cost("text_encoder", 0.0)),
            unet=FakeModule(clock, cost("unet", 0.0)),
            vae=FakeVAE(clock, cost("vae.decode", 0.0)),
        )
        self.scheduler = FakeScheduler(clock, cost("scheduler.step", 0.0))
        self.image_processor = FakeImageProcessor(clock, cost("image_processor", 0.0))
        self.vae_scale_factor = 8
        self.set_progress_bar_config(disable=True)

    @property
    def components(self) -> dict[str, object]:
        return {
            "text_encoder": self.text_encoder,
            "unet": self.unet,
            "vae": self.vae,
            "scheduler": self.scheduler,
        }

    def encode_prompt(self, prompt: str) -> torch.Tensor:
        """A prompt's embedding: one number."""
        embedding: torch.Tensor = self.text_encoder(torch.zeros(1))
        return embedding

    def __call__(
        self,
        prompt: str,
        num_inference_steps: int = 30,
        width: int | None = None,
        height: int | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        sample = self.encode_prompt(prompt)
        self.scheduler.set_timesteps(num_inference_steps)
        with self.progress_bar(total=num_inference_steps) as bar:
            for timestep in self.scheduler.timesteps:
                if timestep == self._fail_at:
                    raise RuntimeError(f"planted failure in step {timestep}")
                output = self.unet(sample)
                self._clock.advance(self._costs.get("glue", 0.0))
                sample = self.scheduler.step(output, timestep, sample)
                bar.update()
        image: torch.Tensor = self.image_processor.postprocess(self.vae.decode(sample))
        return image


__all__ = ["STORY", "FakeClock", "FakePipeline"]
