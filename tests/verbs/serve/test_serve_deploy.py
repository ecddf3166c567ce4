"""The manifests against Kubernetes' own schemas, and against the server that they start."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import kubernetes_validate
import pytest
import yaml

from halftime.base.units import parse_seconds
from halftime.cli import halftime as group
from halftime.verbs.serve.app import ROUTES

DEPLOY = Path(__file__).parents[3] / "deploy"
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
CONTAINER = MANIFESTS[0]["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_kubernetes_schema(manifest: dict) -> None:
    kubernetes_validate.validate(manifest, "1.34", strict=True)


def test_the_schema_check_can_fail() -> None:
    broken = MANIFESTS[1] | {"spec": {"ports": [{"prot": 80}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.34", strict=True)


def test_probes_ask_for_what_is_served() -> None:
    paths = {CONTAINER[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")}
    assert paths == {"/readyz", "/healthz"} <= {route.path for route in ROUTES}
    assert CONTAINER["readinessProbe"]["httpGet"]["path"] == "/readyz"


def options() -> dict[str, object]:
    """The command line that the container runs, parsed as the real one."""
    entry = re.search(
        r"^ENTRYPOINT \[(.*)\]$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE
    )
    words = shlex.split(entry[1].replace(",", " "))
    context = click.Context(group, info_name=words[0])
    name, command, words_left = context.command.resolve_command(
        context, words[1:] + CONTAINER["args"]
    )
    return command.make_context(name, words_left, parent=context).params


def test_kubernetes_waits_longer_than_the_server_drains() -> None:
    spec = MANIFESTS[0]["spec"]["template"]["spec"]
    drain, deadline = (parse_seconds(options()[name]) for name in ("drain", "deadline"))
    assert deadline < drain
    assert (
        drain + CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
        < spec["terminationGracePeriodSeconds"]
    )
    assert options()["host"] == "0.0.0.0"
    assert options()["port"] == CONTAINER["ports"][0]["containerPort"]


def test_replicas_share_their_pictures_or_have_none() -> None:
    """An address that one pod gave would be 404 at the other."""
    assert MANIFESTS[0]["spec"]["replicas"] > 1
    assert options()["pictures"] != "memory"
