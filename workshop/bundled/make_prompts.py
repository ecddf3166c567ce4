"""Writes the test set: 500 captions of the vocabulary, the three styles in turn, each caption at
most once."""

import argparse
import random
from pathlib import Path

from workshop.bundled.artwork import COLOURABLE, COLOURS, NOUNS, STYLES, caption

COUNT = 500


def rows() -> list[tuple[str, str, str | None]]:
    """Style, object, colour. Every object comes in every style before any comes twice."""
    rng = random.Random(9)
    by_style: dict[str, list[tuple[str, str, str | None]]] = {}
    for style in STYLES:
        first = [
            (style, noun, rng.choice(list(COLOURS)) if noun in COLOURABLE else None)
            for noun in NOUNS
        ]
        more = [(style, noun, c) for noun in NOUNS if noun in COLOURABLE for c in COLOURS]
        rng.shuffle(first)
        rng.shuffle(more)
        by_style[style] = list(dict.fromkeys([*first, *more]))
    return [by_style[STYLES[i % len(STYLES)]][i // len(STYLES)] for i in range(COUNT)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    lines = [
        "# Written by workshop/bundled/make_prompts.py. Every prompt lies inside the vocabulary "
        "that emoji-xl learnt."
    ]
    for style, noun, colour in rows():
        text = caption(noun, style, colour)
        extra = f', colour = "{colour}"' if colour else ""
        lines.append(
            f'[[prompts]]\ntext = "{text}"\nstyle = "{style}"\nobject = "{noun}"'
            + extra.replace(", ", "\n")
        )
    parser.parse_args().out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
