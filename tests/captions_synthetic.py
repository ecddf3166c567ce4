"""Logs whose truth is known: whether a small answer is acceptable depends on the features alone."""

from __future__ import annotations

import base64
import io

import msgspec
import numpy as np
from PIL import Image

from halftime.records.captions import Answer, Check, Logged, Router
from halftime.verbs.captions.features import NAMES
from halftime.verbs.captions.log import Log


def synthetic(
    count: int, *, seed: int = 0, hard: float = 0.3, slip: float = 0.004, check: bool = False
) -> Log:
    """A share `hard` of the requests shows in the first feature and fails half of the time.

    The small model fails a share `slip` of the others.
    """
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, len(NAMES)))
    is_hard = rng.random(count) < hard
    values[:, 0] += 6.0 * is_hard
    fails = rng.random(count) < np.where(is_hard, 0.5, slip)
    rows = tuple(
        Logged(
            id=f"r{i}",
            prompt="what is this?" + "!" * int(rng.integers(20)),
            slice="hard" if is_hard[i] else "easy",
            heavy=bool(is_hard[i]),
            features=tuple(values[i].tolist()),
            small=Answer(quality=float(not fails[i]), cost=0.1, seconds=0.1),
            large=Answer(quality=1.0, cost=1.0, seconds=1.0),
            check=Check(score=float(not fails[i]) + rng.normal() * 0.01, cost=0.02)
            if check
            else None,
        )
        for i in range(count)
    )
    return Log(rows, values, tuple(range(count)))


def jpeg(seed: int = 0, size: int = 512, *, noise: float = 0.0, form: str = "JPEG") -> bytes:
    """A picture of one bright disc on white."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    inside = (x - 0.5) ** 2 + (y - 0.5) ** 2 < rng.uniform(0.04, 0.12)
    picture = np.where(inside[..., None], rng.integers(0, 200, 3), 255).astype(float)
    picture += noise * rng.normal(size=picture.shape)
    buffer = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(
        buffer, form, **({"quality": 90} if form == "JPEG" else {})
    )
    return buffer.getvalue()


def chat(
    picture: bytes | None,
    prompt: str = "What is in this picture?",
    model: str = "captions",
    **fields: object,
) -> dict:
    """An OpenAI-shaped caption request."""
    content: list[dict] = [{"type": "text", "text": prompt}]
    if picture is not None:
        url = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


def words(picture: bytes, prompt: str, answer: str) -> float:
    """A judge that likes many words."""
    return float(len(answer.split()))


def certified(threshold: float | None = 0.5, **changes: object) -> Router:
    """A router that accepts everything like a plain picture: zero weights, an intercept of 3."""
    width = len(NAMES)
    router = Router(
        features=NAMES,
        mean=(0.0,) * width,
        scale=(10.0,) * width,
        weights=(0.0,) * width,
        intercept=3.0,
        limit=50.0,
        threshold=threshold,
        alpha=0.02,
        delta=0.05,
        tolerance=0.0,
        small_share=0.7,
    )
    return msgspec.structs.replace(router, **changes)
