"""Grafana's dashboard against the metrics that a server really exports: a panel that asks for a
metric or a label that there is not stays empty, and nobody notices."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve_app import in_process

DASHBOARD = json.loads(
    (Path(__file__).parents[3] / "deploy" / "grafana-dashboard.json").read_text()
)
PANELS = DASHBOARD["panels"]
_METRIC = re.compile(r"\b(?:halftime|http|process)_[a-z_]+\b(?=\{)")
_MATCHED = re.compile(r"\b([a-z_]+)(?:=~|!~|!=|=)\"")
_GROUPED = re.compile(r"by \(([a-z_, ]+)\)")
SCRAPED = {"job", "instance"}  # labels that Prometheus adds itself


@pytest.fixture(scope="module")
def exported() -> Iterator[dict[str, set[str]]]:
    """Metric -> its labels, of a server that has drawn, previewed and refused for a key."""
    with in_process(api_keys=("secret",)) as server:
        sent = {"authorization": "Bearer secret"}
        path = "/v1/images/generations"
        server.http.post(path, json={"prompt": "a"}, headers=sent)
        server.http.post(path, json={"prompt": "a", "n": 99}, headers=sent)
        text = server.http.get("/metrics").text
        labels: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
        yield labels


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_a_panel_asks_for_what_is_exported(expression: str, exported: dict[str, set[str]]) -> None:
    names = _METRIC.findall(expression)
    assert names
    labels = set().union(*(exported[name] for name in names)) | SCRAPED
    used = set(_MATCHED.findall(expression))
    used |= {word.strip() for group in _GROUPED.findall(expression) for word in group.split(",")}
    assert used <= labels
    assert expression.count("(") == expression.count(")")


def test_what_the_server_counts_is_shown(exported: dict[str, set[str]]) -> None:
    """A metric of ours that no panel shows is forgotten."""
    shown = {name for text in expressions() for name in _METRIC.findall(text)}
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exported}
    ours = {name for name in families if name.startswith("halftime_")}
    unseen = ours - {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert unseen == {"halftime_requests_cancelled_total"}


def test_panels_do_not_overlap_and_have_their_own_ids() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & own, panel["title"]
        cells |= own


def test_grafana_can_import_it_anywhere() -> None:
    """Nothing names a data source of somebody's own."""
    uids = set(re.findall(r'"uid": "([^"]+)"', json.dumps(PANELS)))
    assert uids == {"${datasource}"}
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\b", " ".join(expressions())))
    assert used | {"datasource"} == variables
