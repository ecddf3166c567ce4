"""Two answers to one request, compared without a judge: by the words they have in common."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

ENOUGH = 0.8  # of the words in common; then two answers say the same


def common_words(left: str, right: str) -> float:
    """F1 over words (Rajpurkar et al. 2016): 1 for the same words in any order, 0 for none."""
    left_words, right_words = (Counter(re.findall(r"\w+", text.lower())) for text in (left, right))
    shared = sum((left_words & right_words).values())
    total = sum(left_words.values()) + sum(right_words.values())
    return 2 * shared / total if total else 1.0


def same(left: str, right: str) -> bool:
    """Whether the small model's answer says what the large one's does, as far as words tell."""
    return common_words(left, right) >= ENOUGH


def text_of(body: bytes) -> str:
    """What a chat completion says, streamed or not; empty where nothing can be read."""
    if body.lstrip()[:1] == b"{":
        return "".join(_contents(body, "message"))
    events = (line[5:].strip() for line in body.splitlines() if line.startswith(b"data:"))
    return "".join(
        piece for event in events if event != b"[DONE]" for piece in _contents(event, "delta")
    )


def _contents(data: bytes, name: str) -> Iterator[str]:
    try:
        choices = json.loads(data).get("choices") or []
        yield from (str(choice[name].get("content") or "") for choice in choices)
    except (ValueError, AttributeError, KeyError, TypeError):
        return
