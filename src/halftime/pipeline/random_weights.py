"""Weights that a checkpoint lacks: the libraries fill them with random numbers, and log a line.

A text encoder saved by transformers 5.6 loads so in transformers 4: nothing fails, the times are
right, and each process draws other pictures.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from halftime.base.errors import UnknownModel

_LIBRARIES = ("diffusers", "transformers")
_SAYS_SO = "newly initialized"  # in every release of both that is supported
_MODEL = re.compile(r"weights of (\w+) were not|(\w+) LOAD REPORT")
_NAMES = re.compile(r"'([\w.]+)'|^([\w.{}, ]+?) +\| +MISSING", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[\d*m")


class _Listener(logging.Handler):
    """Keeps each message that says that weights are random."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = _COLOURS.sub("", record.getMessage())
        if _SAYS_SO in text:
            self.texts.append(text)


@contextmanager
def random_weights_refused(source: str) -> Iterator[None]:
    """For a block that loads files. Raises UnknownModel at its end where some weights of a model
    were not in them."""
    listener = _Listener()
    with ExitStack() as stack:
        for library in _LIBRARIES:
            stack.enter_context(_heard(logging.getLogger(library), listener))
        yield
    if listener.texts:
        raise UnknownModel(
            f"{source} cannot be loaded whole: its files lack weights of "
            f"{'; '.join(map(_lacking, listener.texts))}. They would be random numbers, other ones "
            "in each process. Load it with the versions of diffusers and transformers that wrote "
            "it (or newer ones), or name a function, as module:function, that fills them."
        )


@contextmanager
def _heard(logger: logging.Logger, listener: logging.Handler) -> Iterator[None]:
    """Warnings reach the listener also where the user has turned them off, and only it then."""
    level, handlers = logger.level, list(logger.handlers)
    levels = [handler.level for handler in handlers]
    logger.addHandler(listener)
    logger.setLevel(min(level, logging.WARNING))
    for handler in handlers:
        handler.setLevel(max(handler.level, level))
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(listener)
        for handler, before in zip(handlers, levels, strict=True):
            handler.setLevel(before)


def _lacking(text: str) -> str:
    """'CLIPTextModel (embeddings.weight, final_layer_norm.weight, …)'."""
    model = next((name for names in _MODEL.findall(text) for name in names if name), "a model")
    names = [name for pair in _NAMES.findall(text) for name in pair if name]
    first = ", ".join(names[:2]) + (", …" if len(names) > 2 else "")
    return f"{model} ({first})" if names else model
