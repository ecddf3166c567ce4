"""The table of docs/gateway.md, from benchmarks/results/gateway_real/*.json and gateway_reach.json.

python benchmarks/gateway_table.py           rewrites what stands between the markers in
docs/gateway.md;
                                                 with --check it only says whether they are up to
                                                 date
"""

from __future__ import annotations

from pathlib import Path

from halftime.base import units
from halftime.base.store import read_json
from halftime.records.gateway import GatewayResult, Load
from tables import placed, result, update

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "gateway.md"
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


def part(name: str, which: str) -> GatewayResult | None:
    """One result, or None where it was not measured."""
    path = HERE / "results" / "gateway_real" / f"{name}.{which}.json"
    return read_json(path, GatewayResult) if path.exists() else None


def p50(result: GatewayResult | None) -> float | None:
    return result.rates[0].added.p50 if result and result.rates[0].added else None


def cells(name: str) -> list[str]:
    """A gateway's row."""
    parts = {which: part(name, which) for which in ("chat", "stream", "image-in", "rates")}
    chat = parts["chat"].rates[0] if parts["chat"] else None
    streamed = parts["stream"].rates[0].ttft_added if parts["stream"] else None
    background = [load.background_cores for made in parts.values() if made for load in made.rates]
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
    made = load.added
    interval = f"{units.seconds(made.low)} to {units.seconds(made.high)}"
    return [units.seconds(made.p50), interval, units.seconds(made.p95), units.seconds(made.p99)]


def limit(result: GatewayResult | None) -> str:
    if result is None:
        return units.NOTHING
    held = f"{result.held_rate:g}/s" if result.held_rate else "none"
    return f"{held} / {result.capacity:.0f}/s" if result.capacity else f"{held}, not saturated"


def real() -> list[str]:
    """The table, and under it what the tool said of each."""
    measured = [name for name in NAMES if part(name, "chat")]
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(cells(name)) + " |" for name in measured]
    lines.append("\nWhat the tool said:\n")
    for name in measured:
        said = {
            (f.id, which): f.message
            for which in ("chat", "stream", "rates")
            for f in findings(name, which)
        }
        lines += [f"- {NAMES[name]} ({which}): {message}" for (_, which), message in said.items()]
    return lines


def findings(name: str, which: str) -> tuple:
    made = part(name, which)
    return made.findings if made else ()


def reach() -> list[str]:
    """The instrument's own bars."""
    found = result("gateway_reach")
    lines = [
        "| question | asked | measured | bar | reached | cores busy with other work |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        asked, measured = text(row["asked"]), text(row["measured"])
        yes = "yes" if row["reached"] else "**no**"
        bar = row["bar"].replace("|", "\\|")
        lines.append(
            f"| {row['what']} | {asked} | {measured} | {bar} | {yes} | {row['background_cores']} |"
        )
    return lines


def text(value: object) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def written(page: str) -> str:
    """The page with what stands between its markers replaced."""
    for name, lines in (("gateways", real()), ("reach", reach())):
        page = placed(page, f"<!-- {name} -->", f"<!-- end of {name} -->", lines)
    return page


if __name__ == "__main__":
    update(DOCS, written)
