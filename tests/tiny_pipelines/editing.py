"""Qwen-Image's editors, tiny: their text encoder sees the picture that is to be edited."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import transformers
from diffusers import DiffusionPipeline

from tiny_pipelines import families
from tiny_pipelines.relatives import same
from tiny_pipelines.variants import SHORT, Arguments, Variant, drawn, sized

_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
_PATCH = 14  # pixels of the vision model's patches, of which 2 x 2 become one token
_SIZE = 32


class VisionProcessor:
    """Texts and pictures as Qwen's processor gives them, which needs torchvision for videos."""

    def __init__(self) -> None:
        self.tokenizer: Any = families.chat_tokenizer(256)
        self.tokenizer.add_tokens(list(_TOKENS), special_tokens=True)
        pil = getattr(transformers, "Qwen2VLImageProcessorPil", None)
        area = (2 * _PATCH) ** 2
        self.image_processor = (pil or transformers.Qwen2VLImageProcessor)(
            min_pixels=area, max_pixels=4 * area
        )

    def __call__(self, text: list[str], images: Any = None, **options: object) -> Any:
        inputs = {}
        if images is not None:
            inputs = dict(self.image_processor(images=images, return_tensors="pt"))
            counts = [int(grid.prod()) // 4 for grid in inputs["image_grid_thw"]]
            text = [_with_placeholders(one, counts) for one in text]
        encoded = self.tokenizer(text, **options)
        encoded.update(inputs)
        return encoded

    def apply_chat_template(self, messages: object, **options: object) -> str:
        return "a cat"

    def batch_decode(self, tokens: object, **options: object) -> list[str]:
        return ["a cat"]


def _with_placeholders(text: str, counts: list[int]) -> str:
    """As many placeholders for each picture as it has tokens."""
    first, *others = text.split(_TOKENS[2])
    pads = (_TOKENS[2] * count for count in counts)
    return first + "".join(pad + rest for pad, rest in zip(pads, others, strict=True))


def _vision_model() -> Any:
    ids = dict(zip(("vision_start_token_id", "vision_end_token_id"), (8, 9), strict=True))
    model = families.qwen_vl()
    return type(model)(
        type(model.config)(
            text_config={**model.config.text_config.to_dict(), "vocab_size": 11},
            vision_config=model.config.vision_config.to_dict(),
            image_token_id=10,
            **ids,
        )
    ).eval()


def _small(module: str) -> None:
    """Their code enlarges each picture to 1024 x 1024, which is too slow to try every fix."""
    source: Any = import_module(f"diffusers.pipelines.qwenimage.{module}")
    given = source.calculate_dimensions(_SIZE**2, 1.0)  # width and height; a None in some
    source.calculate_dimensions = lambda area, ratio: given
    for name in ("CONDITION_IMAGE_SIZE", "VAE_IMAGE_SIZE"):
        if hasattr(source, name):
            setattr(source, name, _SIZE**2)


def _editor(name: str, module: str, **components: Callable[[], object]) -> Callable[[], Any]:
    make = same(
        name,
        families.qwenimage,
        text_encoder=_vision_model,
        processor=VisionProcessor,
        tokenizer=lambda: families.chat_tokenizer(256),
        **components,
    )

    def build() -> DiffusionPipeline:
        _small(module)
        return make()

    return build


def _edited() -> Arguments:
    return sized(
        _SIZE, **SHORT, image=drawn(_SIZE), true_cfg_scale=2.0, negative_prompt="a red apple"
    )


EDITORS: dict[str, Variant] = {
    "qwenimage_edit": Variant(_editor("QwenImageEditPipeline", "pipeline_qwenimage_edit"), _edited),
    "qwenimage_edit_plus": Variant(
        _editor("QwenImageEditPlusPipeline", "pipeline_qwenimage_edit_plus"),
        lambda: {**_edited(), "image": [drawn(_SIZE), drawn(_SIZE)]},
    ),
    "qwenimage_edit_inpaint": Variant(
        _editor("QwenImageEditInpaintPipeline", "pipeline_qwenimage_edit_inpaint"),
        lambda: {**_edited(), "mask_image": drawn(_SIZE).convert("L")},
    ),
}
