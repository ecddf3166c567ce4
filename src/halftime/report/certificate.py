"""A certificate on a page: what it says, what ends it, and what was tried for it."""

from __future__ import annotations

from collections.abc import Iterator

from halftime.base import units
from halftime.records.certificate import Routing, TriedSetting, Visible, VisibleCertificate
from halftime.records.recipe import Choice
from halftime.records.tune import Tuning
from halftime.report.model import Block, Bullets, Cell, Column, Section, Table, Text, rows_of

_COLUMNS = (
    Column("setting"),
    Column("over the baseline", "ratio"),
    Column("seen in the search", wide=True),
    Column("expected", "share", wide=True),
    Column("seen in the test"),
    Column("at most", "share"),
    Column("result"),
)
# metrics that count where they fall
_SIGNED = ("agreement", "aesthetic")


def certificate_section(tuning: Tuning) -> Iterator[Section]:
    """The certificate of a recipe, and every setting that was tried for one."""
    certificate = tuning.recipe.certificate
    if certificate is None and not tuning.tried:
        return
    blocks: list[Block] = []
    if certificate is None:
        blocks.append(Text("Nothing was certified; the recipe is as exact as before.", "warning"))
    else:
        blocks += [
            Text(promise(certificate), "good"),
            *([Text(routed(certificate.routing))] if certificate.routing else []),
            Text(definition(certificate.visible)),
            Text("It ends with:"),
            Bullets(tuple(Text(void) for void in certificate.voids)),
        ]
    raced = [tried for tried in tuning.tried if tried.searched]
    tested = sorted(raced, key=lambda tried: tried.predicted_share)
    blocks.append(Table(_COLUMNS, rows_of(*map(_row, tested))))
    failed = [tried.why for tried in tuning.tried if not tried.searched]
    if failed:
        blocks.append(Bullets(tuple(Text(f"Not tried: {why}.") for why in failed)))
    yield Section("Certificate", tuple(blocks))


def promise(certificate: VisibleCertificate) -> str:
    """What it says, in one sentence."""
    return (
        f"With {units.share(certificate.confidence)} confidence at most "
        f"{units.share(certificate.alpha)} of the pictures differ visibly from those of the "
        f"pipeline as it was: {certificate.different} of {certificate.pairs} did on prompts that "
        f"chose nothing, which bounds the share at {units.share(certificate.at_most)}."
    )


def routed(routing: Routing) -> str:
    """What its router does."""
    return (
        f"Hard prompts are drawn in full: a score of the first steps, learned from "
        f"{routing.learned} prompts, draws {units.share(routing.cheap_share)} of the calls cheaply "
        f"and saves {units.share(routing.saving_share)} of their time. An oracle would draw "
        f"{units.share(routing.oracle_share)} cheaply and save "
        f"{units.share(routing.oracle_saving_share)}; without the score "
        f"{units.share(routing.cheap_different_share)} of the pictures would differ visibly."
    )


def definition(visible: Visible) -> str:
    """What differs visibly."""
    limits = ", or ".join(
        f"{name} falls by more than {limit:.3g}" if name in _SIGNED else f"{name} > {limit:.3g}"
        for name, limit in visible.limits.items()
    )
    shares = ", ".join(f"{name} {units.share(share)}" for name, share in visible.shares.items())
    source = (
        " The limits are shares of the distance between pictures of different prompts, or the "
        f"noise margin where that is larger: {shares}."
        if shares
        else ""
    )
    return (
        f"A picture differs visibly where {limits}, or where it is broken and the other is not."
        f"{source}"
    )


def _row(tried: TriedSetting) -> tuple[Cell, ...]:
    result = "passed" if tried.passed else "failed" if tried.passed is False else tried.why
    return (
        " + ".join(map(_words, tried.changes)),
        tried.speedup,
        f"{tried.search_different} of {tried.searched}",
        tried.predicted_share,
        f"{tried.different} of {tried.pairs}" if tried.pairs else None,
        tried.at_most,
        result,
    )


def _words(choice: Choice) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in choice.settings.items() if value)
    return f"{choice.name} ({settings})" if settings else choice.name
