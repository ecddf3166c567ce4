"""Who else is at work: looked at before torch is imported, and said at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from halftime.base.neighbours import Surroundings


def look_around(quiet: bool) -> Surroundings:
    """Look, let our own idle threads sleep where others work, and say whose work it is."""
    from halftime.base.neighbours import look, sentence, yield_to

    surroundings = look()
    yields = yield_to(surroundings)
    words = sentence(surroundings)
    if words and not quiet:
        slept = " This process lets its idle threads sleep meanwhile." if yields else ""
        click.echo(
            f"warning: {words}. What is measured now is slower, and varies more, than on a quiet "
            f"machine.{slept}",
            err=True,
        )
    return surroundings
