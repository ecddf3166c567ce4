"""The manifests against Kubernetes' own schemas, and against the server that they start."""

from __future__ import annotations

import copy
import json
import re
import shlex
from pathlib import Path

import click
import jsonschema
import kubernetes_validate
import msgspec
import pytest
import yaml

from halftime.base.units import parse_seconds
from halftime.cli import halftime as group
from halftime.verbs.serve.app import ROUTES
from halftime.verbs.serve.ray_serve import Cluster, http_settings

DEPLOY = Path(__file__).parents[3] / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
GPU = yaml.safe_load((DEPLOY / "kubernetes-gpu.yaml").read_text())
RAY = yaml.safe_load((DEPLOY / "rayservice.yaml").read_text())
RAY_SCHEMA = json.loads((Path(__file__).parent / "rayservice_schema.json").read_text())
DEPLOYMENTS = {"cpu": MANIFESTS[0], "gpu": GPU}


def ray_pods() -> dict[str, dict]:
    """The pods that KubeRay makes of the manifest."""
    cluster = RAY["spec"]["rayClusterConfig"]
    groups = {"head": cluster["headGroupSpec"]} | {
        worker["groupName"]: worker for worker in cluster["workerGroupSpecs"]
    }
    return {
        name: {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": group["template"]["spec"],
        }
        for name, group in groups.items()
    }


@pytest.mark.parametrize(
    "manifest",
    [*MANIFESTS, GPU, *ray_pods().values()],
    ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}",
)
def test_kubernetes_schema(manifest: dict) -> None:
    kubernetes_validate.validate(manifest, "1.34", strict=True)


def test_the_schema_check_can_fail() -> None:
    broken = MANIFESTS[1] | {"spec": {"ports": [{"prot": 80}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.34", strict=True)


def container_of(deployment: dict) -> dict:
    container: dict = deployment["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_probes_ask_for_what_is_served(deployment: dict) -> None:
    container = container_of(deployment)
    paths = {container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")}
    assert paths == {"/readyz", "/healthz"} <= {route.path for route in ROUTES}
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def options(deployment: dict) -> dict[str, object]:
    """The command line that the container runs, parsed as the real one."""
    entry = re.search(r"^ENTRYPOINT \[(.*)\]$", CONTAINERFILE, re.MULTILINE)
    assert entry is not None
    words = shlex.split(entry[1].replace(",", " "))
    context = click.Context(group, info_name=words[0])
    name, command, words_left = group.resolve_command(
        context, words[1:] + container_of(deployment)["args"]
    )
    assert command is not None
    return command.make_context(name, words_left, parent=context).params


@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_kubernetes_waits_longer_than_the_server_drains(deployment: dict) -> None:
    spec, container = deployment["spec"]["template"]["spec"], container_of(deployment)
    values = options(deployment)
    drain, deadline = (parse_seconds(str(values[name])) for name in ("drain", "deadline"))
    assert deadline < drain
    assert (
        drain + container["lifecycle"]["preStop"]["sleep"]["seconds"]
        < spec["terminationGracePeriodSeconds"]
    )
    assert values["host"] == "0.0.0.0"
    assert values["port"] == container["ports"][0]["containerPort"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_replicas_share_their_pictures_or_have_none(deployment: dict) -> None:
    """An address that one pod gave would be 404 at the other."""
    assert deployment["spec"]["replicas"] > 1
    assert options(deployment)["pictures"] != "memory"


@pytest.mark.parametrize("pod", [GPU["spec"]["template"], ray_pods()["gpu"]], ids=["plain", "ray"])
def test_a_pod_for_gpus_asks_for_one_where_they_are(pod: dict) -> None:
    (container,) = pod["spec"]["containers"]
    resources = container["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
    assert any(item["key"] == "nvidia.com/gpu" for item in pod["spec"]["tolerations"])
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_the_gpu_deployment_draws_on_the_gpu_and_fits_the_service() -> None:
    assert options(GPU)["device"] == "cuda"
    selector = MANIFESTS[1]["spec"]["selector"]
    assert selector.items() <= GPU["spec"]["template"]["metadata"]["labels"].items()


# ---- Ray


def test_the_ray_service_has_only_fields_that_kuberay_knows() -> None:
    jsonschema.validate(RAY, RAY_SCHEMA)


@pytest.mark.parametrize("path", [(), ("rayClusterConfig",), ("rayClusterConfig", "headGroupSpec")])
def test_the_check_of_the_ray_service_can_fail(path: tuple[str, ...]) -> None:
    broken = copy.deepcopy(RAY)
    place = broken["spec"]
    for name in path:
        place = place[name]
    place["replica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(broken, RAY_SCHEMA)


def serve_config() -> dict:
    config: dict = yaml.safe_load(RAY["spec"]["serveConfigV2"])
    return config


def ray_cluster() -> Cluster:
    """What the manifest sets, read as `ray_serve.app` reads it."""
    (application,) = serve_config()["applications"]
    module, _, attribute = application["import_path"].partition(":")
    assert (module, attribute) == ("halftime.verbs.serve.ray_serve", "app")
    return msgspec.convert(application["args"], Cluster)


def test_the_ray_services_settings_are_ours_and_its_times_agree() -> None:
    cluster = ray_cluster()
    http, deadline = http_settings(cluster), cluster.engine.deadline_seconds
    assert deadline is not None
    assert http.deadline == deadline < cluster.drain_seconds
    assert deadline < serve_config()["http_options"]["request_timeout_s"]
    assert cluster.drain_seconds < RAY["spec"]["rayClusterDeletionDelaySeconds"]
    grace = ray_pods()["gpu"]["spec"]["terminationGracePeriodSeconds"]
    assert cluster.drain_seconds < grace
    assert http.pictures == "off"


def test_the_ray_services_nodes_hold_its_drawers() -> None:
    cluster, (workers,) = ray_cluster(), RAY["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    requests = workers["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert cluster.cpus <= float(requests["cpu"])
    assert cluster.gpus <= float(requests["nvidia.com/gpu"])
    assert (cluster.least, cluster.most) == (workers["minReplicas"], workers["maxReplicas"])


# ---- the container


def test_the_container_takes_torch_from_where_it_is_small() -> None:
    assert "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu" in CONTAINERFILE
    pins = (DEPLOY.parent / "constraints.txt").read_text().splitlines()
    pattern = re.search(r"grep -E '([^']+)'", CONTAINERFILE)
    assert pattern is not None
    assert sum(re.match(pattern[1], pin) is not None for pin in pins) == 1


def test_the_container_copies_what_there_is_and_runs_as_nobody() -> None:
    stages = CONTAINERFILE.split("\nFROM ")[1:]
    assert len(stages) == 2  # what builds is not what runs
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE):
        assert all((DEPLOY.parent / name).exists() for name in line.split())
    assert "USER 10001" in stages[-1]
