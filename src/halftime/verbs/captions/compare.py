"""What an answer says: the words of a chat completion or a response, streamed or not."""

from __future__ import annotations

import json
from collections.abc import Iterator


def text_of(body: bytes) -> str:
    """An answer's words; empty where nothing can be read."""
    if body.lstrip()[:1] == b"{":
        return "".join(_contents(body, "message"))
    events = (line[5:].strip() for line in body.splitlines() if line.startswith(b"data:"))
    return "".join(
        piece for event in events if event != b"[DONE]" for piece in _contents(event, "delta")
    )


def _contents(data: bytes, name: str) -> Iterator[str]:
    try:
        answer = json.loads(data)
        choices = answer.get("choices") or []
        yield from (str(choice[name].get("content") or "") for choice in choices)
        yield from _response_texts(answer)
    except (ValueError, AttributeError, KeyError, TypeError):
        return


def _response_texts(answer: dict[str, object]) -> Iterator[str]:
    """Of /v1/responses: a whole answer, or one event of its stream."""
    if answer.get("type") == "response.output_text.delta":
        yield str(answer.get("delta") or "")
    output = answer.get("output")
    for item in output if isinstance(output, list) else []:
        for part in item.get("content") or []:
            if part.get("type") == "output_text":
                yield str(part.get("text") or "")
