"""The manifests of the page on Kubernetes are valid, and fit together with the settings and the probes."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from ha_session_mw import SessionMiddleware, Settings
from ha_session_mw._settings.setting import variable
from ha_session_mw.config import SETTINGS

from .test_docs import DOCS, PAGES, blocks, name_of

PAGE = DOCS / "how-to" / "kubernetes.md"
OLDEST = "1.30"
"""The release that the page asks for."""

BLOCKS = [(page, block) for page in PAGES for block in blocks(page, "yaml")]
MANIFESTS = [manifest for page, block in BLOCKS if page == PAGE for manifest in yaml.safe_load_all(block.text)]
WORKLOADS = [manifest for manifest in MANIFESTS if "template" in manifest["spec"]]
STATEFUL = next(manifest for manifest in WORKLOADS if manifest["kind"] == "StatefulSet")

_PROBES = {"startupProbe": "startupz", "livenessProbe": "livez", "readinessProbe": "readyz"}


def kind_of(manifest: dict[str, Any]) -> str:
    return str(manifest["kind"])


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    return workload["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def container_of(workload: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(workload)["containers"]
    return container  # type: ignore[no-any-return]


def beside(workload: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifests in the same block of the page."""
    (found,) = [together for _, block in BLOCKS if workload in (together := list(yaml.safe_load_all(block.text)))]
    return found


def environ_of(workload: dict[str, Any], number: int) -> dict[str, str]:
    """The variables of a pod as Kubernetes sets them: a variable may refer to those above it."""
    facts = {"metadata.name": f"{workload['metadata']['name']}-{number}", "status.podIP": f"10.0.0.{number + 1}"}
    environ: dict[str, str] = {}
    for entry in container_of(workload)["env"]:
        value = entry["value"] if "value" in entry else facts[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        environ[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: environ.get(match[1], match[0]), value)
    return environ


def pods() -> Iterator[Any]:
    for workload in WORKLOADS:
        for number in range(workload["spec"]["replicas"]):
            yield pytest.param(workload, environ_of(workload, number), id=f"{workload['kind']}-{number}")


def test_no_other_page_shows_manifests_that_nothing_checks() -> None:
    assert {name_of(page) for page, _ in BLOCKS} == {name_of(PAGE)}
    assert {kind_of(workload) for workload in WORKLOADS} == {"StatefulSet", "Deployment"}


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=kind_of)
def test_a_manifest_fits_the_schema_and_has_no_other_fields(manifest: dict[str, Any], version: str) -> None:
    assert f"Kubernetes {OLDEST} or later" in PAGE.read_text("utf-8")
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("workload", WORKLOADS, ids=kind_of)
def test_a_field_that_is_misspelt_would_be_found(workload: dict[str, Any]) -> None:
    wrong = copy.deepcopy(workload)
    container_of(wrong)["readynessProbe"] = container_of(wrong).pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


@pytest.mark.parametrize(("workload", "environ"), [*pods()])
def test_a_pod_starts_with_its_settings(workload: dict[str, Any], environ: dict[str, str], tmp_path: Path) -> None:
    names = {name for name in environ if name.startswith("HA_SESSION_")}
    assert names <= {variable(name) for name in SETTINGS}
    assert "HA_SESSION_SECRET_KEY_FILE" in names
    assert not [name for name in names if "$(" in environ[name]], "refers to a variable that does not stand above it"
    # What the pod mounts stands below a folder of the test.
    mounts = [mount["mountPath"] for mount in container_of(workload)["volumeMounts"]]
    for name in names:
        for mount in mounts:
            environ = {**environ, name: re.sub(rf"(^|://){mount}/", rf"\g<1>{tmp_path}{mount}/", environ[name])}
        if name.endswith("_FILE"):
            file = Path(environ[name])
            assert file.is_relative_to(tmp_path), f"{name}: nothing is mounted there"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(secrets.token_urlsafe(48), "utf-8")
        elif name == "HA_SESSION_STATE_DIR":
            assert Path(environ[name]).is_relative_to(tmp_path), f"{name}: nothing is mounted there"
    if environ["HA_SESSION_CLUSTER"].startswith("peers:"):
        assert environ["HA_SESSION_CLUSTER"].startswith(f"peers://{tmp_path}/")
    Settings.from_environ(environ)


def test_each_pod_of_the_stateful_set_is_a_member_and_there_are_no_others() -> None:
    environs = [environ_of(STATEFUL, number) for number in range(STATEFUL["spec"]["replicas"])]
    assert len({environ["HA_SESSION_PEERS"] for environ in environs}) == 1
    assert [environ["HA_SESSION_ADVERTISE_URL"] for environ in environs] == environs[0]["HA_SESSION_PEERS"].split(",")


def test_the_pods_of_the_stateful_set_start_together_and_find_each_other() -> None:
    spec = STATEFUL["spec"]
    assert spec["podManagementPolicy"] == "Parallel"
    (headless,) = [other for other in beside(STATEFUL) if other["metadata"]["name"] == spec["serviceName"]]
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["publishNotReadyAddresses"] is True
    (own_port,) = [port["containerPort"] for port in container_of(STATEFUL)["ports"]]
    assert environ_of(STATEFUL, 0)["HA_SESSION_ADVERTISE_URL"] == f"http://shop-0.{spec['serviceName']}:{own_port}"


@pytest.mark.parametrize("workload", WORKLOADS, ids=kind_of)
def test_everything_that_selects_pods_selects_these(workload: dict[str, Any]) -> None:
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"] == labels
    for spread in pod_of(workload).get("topologySpreadConstraints", ()):
        assert spread["labelSelector"]["matchLabels"] == labels
    others = [other for other in beside(workload) if other is not workload and other["kind"] != workload["kind"]]
    assert {"Service", "PodDisruptionBudget"} == {kind_of(other) for other in others}
    for other in others:
        selector = other["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels
    # With no other budget than one pod, a drain of machines cannot take a majority.
    assert [other["spec"]["maxUnavailable"] for other in others if other["kind"] == "PodDisruptionBudget"] == [1]


@pytest.mark.parametrize("workload", WORKLOADS, ids=kind_of)
def test_ports_and_volumes_are_those_of_the_pod(workload: dict[str, Any]) -> None:
    container, spec = container_of(workload), workload["spec"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for service in (other for other in beside(workload) if other["kind"] == "Service"):
        for port in service["spec"]["ports"]:
            assert port.get("targetPort", port["port"]) in (*ports, *ports.values())
    claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", ())}
    volumes = {volume["name"] for volume in pod_of(workload)["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == claims | volumes
    assert not any("subPath" in mount for mount in container["volumeMounts"])  # such files are never updated
    for volume in pod_of(workload)["volumes"]:
        name = volume["secret"]["secretName"]
        assert f"kubectl create secret generic {name} " in PAGE.read_text("utf-8")
    assert container["command"][container["command"].index("--port") + 1] == str(ports["http"])


@pytest.mark.parametrize("workload", WORKLOADS, ids=kind_of)
def test_each_probe_asks_the_path_that_answers_its_question(workload: dict[str, Any]) -> None:
    container = container_of(workload)
    settings = Settings(secret_key=secrets.token_urlsafe(48), protect="*")
    client = TestClient(Starlette(middleware=[Middleware(SessionMiddleware, settings=settings)]))
    for probe, name in _PROBES.items():
        asked = container[probe]["httpGet"]
        assert asked["path"].endswith(f"/{name}")
        assert asked["port"] in {port["name"] for port in container["ports"]}
        assert client.get(asked["path"]).json() == {"status": "pass"}


@pytest.mark.parametrize("workload", WORKLOADS, ids=kind_of)
def test_a_pod_has_the_time_to_end_in_order(workload: dict[str, Any]) -> None:
    command = container_of(workload)["command"]
    drain_s = int(command[command.index("--timeout-graceful-shutdown") + 1])
    sleep_s = container_of(workload)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod_of(workload)["terminationGracePeriodSeconds"] > sleep_s + drain_s
