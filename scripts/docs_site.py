"""A hook of mkdocs: the menu, the reference from the code, links into the checkout as paths."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from halftime.cli import VERBS
from halftime.cli import halftime as group
from halftime.records import Record, Session, Workload
from halftime.records.recipe import Recipe
from halftime.records.serve import EngineStatus
from halftime.records.verdict import Verdict
from halftime.verbs.serve.metrics import ServerMetrics

DOCS = Path(__file__).parent.parent / "docs"
CONCEPTS = (
    "stage",
    "sync",
    "noise-floor",
    "schedule-table",
    "forecast-band",
    "warm-up-certificate",
    "open-loop",
    "where-things-go",
)
SCHEMAS: dict[str, tuple[type[Record], str]] = {
    "session": (
        Session,
        "What `profile --json` and `trace --json` write; `replay` and `--against` read it.",
    ),
    "workload": (Workload, "What `--workload FILE` reads, in TOML."),
    "recipe": (
        Recipe,
        (
            "A plan with its evidence, in TOML or JSON: what `tune` writes, and `verify` and "
            "`serve` read."
        ),
    ),
    "verdict": (Verdict, "What `verify --json` writes."),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The menu: guides in the order of the command line, then the rest."""
    guides = [{verb: f"{verb}.md"} for verb in (*VERBS, "fix") if (DOCS / f"{verb}.md").exists()]
    config.nav = [
        {"Home": "index.md"},
        {
            "Guides": [
                *guides,
                "findings.md",
                "completion.md",
                "exit-codes.md",
                "troubleshooting.md",
            ]
        },
        {"Concepts": [f"concepts/{name}.md" for name in CONCEPTS]},
        {
            "Reference": [
                "reference/cli.md",
                *(f"reference/{name}.md" for name in SCHEMAS),
                "reference/metrics.md",
            ]
        },
        {
            "Evidence": [
                "evidence.md",
                "environments.md",
                "hardware.md",
                "audit-coverage.md",
                "fix-breadth.md",
                "log.md",
            ]
        },
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are written from the code."""
    pages = {"cli": "\n".join(command_line()), "metrics": "\n".join(metrics())}
    pages |= {name: "\n".join(schema(name, kind, text)) for name, (kind, text) in SCHEMAS.items()}
    for name, content in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """`[text](../deploy/x)` leads out of the site: show the path instead."""
    return re.sub(
        r"\[`?([^\]`]+)`?\]\(\.\./((?:deploy|src|benchmarks|examples|workshop|scripts)/[^)]+)\)",
        r"\1 (`\2`)",
        markdown,
    )


def command_line() -> Iterator[str]:
    """Every command with its arguments and options, as click knows them."""
    yield "# Command line\n"
    yield (
        "Written from the code. `--debug` may stand anywhere; exit codes have [a "
        "page](../exit-codes.md).\n"
    )
    for verb in VERBS:
        command = group.get_command(click.Context(group), verb)
        assert command is not None
        yield from _command(command, f"halftime {verb}")


def _command(command: click.Command, name: str) -> Iterator[str]:
    children = command.commands if isinstance(command, click.Group) else {}
    main = children.get("run", command)  # `forecast MODEL` is `forecast run MODEL`
    context = click.Context(main, info_name=name)
    yield f"## {name}\n" if name.count(" ") == 1 else f"### {name}\n"
    yield f"```text\n{main.get_usage(context)}\n```\n\n{inspect.cleandoc(main.help or '')}\n"
    yield from _options(main, context)
    for key, child in children.items():
        if key != "run":
            yield from _command(child, f"{name} {key}")


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    rows = [record for p in command.get_params(context) if (record := p.get_help_record(context))]
    if rows:
        yield "| option | |\n|---|---|"
        yield from (f"| <code>{_cell(names)}</code> | {_cell(text)} |" for names, text in rows)
        yield ""


def _cell(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "&#124;").replace("\n", " ")


def schema(name: str, kind: type[Record], text: str) -> Iterator[str]:
    """A record's JSON schema: a table for each type, and all of it for tools."""
    full: dict[str, Any] = msgspec.json.schema(kind)
    yield f"# {name.capitalize()} file\n"
    yield f"{text} Seconds, bytes, FLOPs, ratios; an unknown field is an error.\n"
    definitions = full.get("$defs", {})
    for title, part in sorted(definitions.items(), key=lambda item: item[0] != kind.__name__):
        if part.get("properties"):
            yield f"## {title}\n\n{part.get('description', '')}\n"
            yield "| field | type | default |\n|---|---|---|"
            required = set(part.get("required", ()))
            for field, declared in part["properties"].items():
                value = f"`{json.dumps(declared.get('default'))}`"
                default = "*required*" if field in required else value
                yield f"| `{field}` | {_type(declared)} | {default} |"
            yield ""
    yield f"## JSON schema\n\n```json\n{json.dumps(full, indent=1)}\n```"


def _type(of: dict[str, Any]) -> str:
    if "$ref" in of:
        title = of["$ref"].rpartition("/")[2]
        return f"[{title}](#{title.lower()})"
    if "anyOf" in of:
        return " or ".join(dict.fromkeys(map(_type, of["anyOf"])))
    if "enum" in of:
        return ", ".join(f"`{value}`" for value in of["enum"])
    if of.get("type") == "array":
        return f"list of {_type(of['items'])}" if isinstance(of.get("items"), dict) else "list"
    if of.get("type") == "object":
        values = of.get("additionalProperties")
        return f"map to {_type(values)}" if isinstance(values, dict) else "map"
    return str(of.get("type", "any"))


def metrics() -> Iterator[str]:
    """What `halftime serve` gives to Prometheus, from its own registry."""
    server = ServerMetrics(lambda: EngineStatus(state="ready"))
    yield "# Metrics of halftime serve\n"
    yield "At `/metrics`, in base units, beside the client library's own.\n"
    yield "| metric | type | labels | |\n|---|---|---|---|"
    labels = {
        name: metric._labelnames
        for metric in vars(server).values()
        if (name := getattr(metric, "_name", None))
    }
    for metric in server.registry.collect():
        if metric.name.startswith(("halftime_", "http_")):
            label_names = ", ".join(f"`{label}`" for label in labels.get(metric.name, ()))
            yield f"| `{metric.name}` | {metric.type} | {label_names} | {metric.documentation} |"
