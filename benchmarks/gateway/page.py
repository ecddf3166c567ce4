"""The tables of docs/gateway.md, from benchmarks/results/gateway_*.

    python -m benchmarks.gateway.page [--check]

Rewrites the text between the page's markers; --check only says whether that would change it.
"""

from __future__ import annotations

from benchmarks.tables import ROOT, between, record_of, result, table, update
from halftime.base import units
from halftime.records.gateway import GatewayResult, Load

PAGE = ROOT / "docs" / "gateway.md"
NAMES = {
    "nginx": "nginx 1.22",
    "portkey": "Portkey 1.15.2",
    "litellm": "LiteLLM 1.106.2, one worker",
    "naive": "naive proxy (a new httpx client per request)",
}
HEAD = (
    "gateway",
    "p50",
    "95 % interval",
    "p95",
    "p99",
    "first byte, streaming",
    "1 MB picture in",
    "CPU a request",
    "held / completes at most",
    "cores busy with other work",
)


def part(gateway: str, name: str) -> GatewayResult | None:
    """One result, or None where it was not measured."""
    return record_of(f"gateway_real/{gateway}.{name}", GatewayResult)


def p50(result: GatewayResult | None) -> float | None:
    return result.rates[0].added.p50 if result and result.rates[0].added else None


def cells(name: str) -> list[str]:
    """A gateway's row."""
    parts = {word: part(name, word) for word in ("chat", "stream", "image-in", "rates")}
    chat = parts["chat"].rates[0] if parts["chat"] else None
    streamed = parts["stream"].rates[0].ttft_added if parts["stream"] else None
    background = [
        load.background_cores for measured in parts.values() if measured for load in measured.rates
    ]
    return [
        NAMES[name],
        *added(chat),
        units.seconds(streamed),
        units.seconds(p50(parts["image-in"])),
        units.seconds(chat.cpu_per_request if chat else None),
        limit(parts["rates"]),
        f"{min(background):.1f} to {max(background):.1f}",
    ]


def added(load: Load | None) -> list[str]:
    if load is None or load.added is None:
        return [units.NOTHING] * 4
    quantiles = load.added
    interval = f"{units.seconds(quantiles.low)} to {units.seconds(quantiles.high)}"
    p50, p95, p99 = (units.seconds(getattr(quantiles, name)) for name in ("p50", "p95", "p99"))
    return [p50, interval, p95, p99]


def limit(result: GatewayResult | None) -> str:
    if result is None:
        return units.NOTHING
    held = f"{result.held_rate:g}/s" if result.held_rate else "none"
    return f"{held} / {result.capacity:.0f}/s" if result.capacity else f"{held}, not saturated"


def real() -> list[str]:
    """The table, and under it the findings of each gateway."""
    measured = [name for name in NAMES if part(name, "chat")]
    lines = table(HEAD, [cells(name) for name in measured])
    lines.append("\nWhat the tool said:\n")
    for name in measured:
        messages = {
            (finding.id, word): finding.message
            for word in ("chat", "stream", "rates")
            for finding in findings(name, word)
        }
        lines += [f"- {NAMES[name]} ({word}): {message}" for (_, word), message in messages.items()]
    return lines


def findings(name: str, word: str) -> tuple:
    measured = part(name, word)
    return measured.findings if measured else ()


def reach() -> list[str]:
    """The instrument's own bars."""
    head = ("question", "asked", "measured", "bar", "reached", "cores busy with other work")
    measured = result("gateway_reach")
    assert measured is not None
    rows = [
        [
            row["what"],
            text(row["asked"]),
            text(row["measured"]),
            row["bar"].replace("|", "\\|"),
            "yes" if row["reached"] else "**no**",
            str(row["background_cores"]),
        ]
        for row in measured["rows"]
    ]
    return table(head, rows)


def planted() -> list[str]:
    """What was planted, what was measured, and what it was called."""
    head = (
        "planted proxy",
        "what it does",
        "planted",
        "measured",
        "named",
        "verdict",
        "as it should be",
    )
    measured = result("gateway_planted")
    if measured is None:
        return []
    return table(head, [planted_cells(row) for row in measured["rows"]])


def planted_cells(row: dict) -> list[str]:
    amount = units.seconds(row["asked"]) if row["asked"] is not None else units.NOTHING
    named = " ".join(f"`{name}`" for name in filter(None, [row["named"], *row["also"]]))
    reasons = "; ".join(row["reasons"]).replace("|", "\\|")
    return [
        f"`{row['what']}`",
        row["does"],
        amount,
        units.seconds(row["measured"]) if row["verdict"] == "yes" else reasons,
        named or units.NOTHING,
        row["verdict"],
        "yes" if row["reached"] else "**no**",
    ]


def planted_summary() -> list[str]:
    measured = result("gateway_planted")
    if measured is None:
        return []
    rows = measured["rows"]
    busy = [row["background_cores"] for row in rows]
    return [
        f"{sum(row['reached'] for row in rows)} of {len(rows)} as they should be, in one run with "
        f"{min(busy):g} to {max(busy):g} cores busy with other work."
    ]


def text(value: object) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def rewritten(page: str) -> str:
    parts = {
        "gateways": real,
        "reach": reach,
        "planted": lambda: [*planted_summary(), "", *planted()],
    }
    for name, lines in parts.items():
        page = between(page, name, lines())
    return page


if __name__ == "__main__":
    update({PAGE: rewritten})
