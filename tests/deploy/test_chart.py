"""The Helm chart: linted and rendered by Helm itself, its objects held against Kubernetes' schemas."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError, validate

from deploy.commands import called, understood
from deploy.conftest import CHART, SCENARIOS
from deploy.rendering import Rendered, render

VERSIONS = ("1.29", "1.37")  # the oldest that Chart.yaml allows, and the newest whose schemas there are
Objects = Mapping[str, list[dict[str, Any]]]
REFUSED: Mapping[str, Mapping[str, Any]] = {
    "a misspelt value": {"node": {"replicas": 2}},
    "a misspelt value further in": {"nodes": {"replica": 2}},
    "a number below its least": {"nodes": {"gpus": -1}},
    "a text for a number": {"nodes": {"replicas": "two"}},
    "a size that is none": {"nodes": {"memory": "6 gigabytes"}},
    "an ingress without a host": {"ingress": {"enabled": True}},
    "a type of service that there is not": {"coordinator": {"service": {"type": "External"}}},
}


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] == kind]


def known(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but those of the Prometheus operator, whose schemas are not Kubernetes' own."""
    return [one for one in objects if one["kind"] != "ServiceMonitor"]


def workloads(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*of_kind(objects, "Deployment"), *of_kind(objects, "StatefulSet")]


def containers(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for workload in workloads(objects):
        pod = workload["spec"]["template"]["spec"]
        yield from (*pod.get("initContainers", ()), *pod["containers"])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_helm_finds_nothing_to_complain_of(scenario: str, rendered: Mapping[str, Rendered]) -> None:
    assert (rendered[scenario].refused, rendered[scenario].problems) == ("", ())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_its_objects_are_what_kubernetes_takes(scenario: str, version: str, manifests: Objects) -> None:
    objects = manifests[scenario]
    assert {"Deployment", "StatefulSet", "Service", "PersistentVolumeClaim"} <= {one["kind"] for one in objects}
    for one in known(objects):
        validate(one, version, strict=True)


def test_objects_that_were_damaged_are_refused(manifests: Objects) -> None:
    for one in known(manifests["all options"]):
        unknown, wrong = copy.deepcopy(one), copy.deepcopy(one)
        unknown["spec"]["osai"] = "unknown"
        wrong["metadata"]["name"] = 7
        for damaged in (unknown, wrong):
            with pytest.raises(ValidationError):
                validate(damaged, VERSIONS[-1], strict=True)


def test_values_that_do_not_fit_are_refused() -> None:
    answers = dict(zip(REFUSED, render(CHART, list(REFUSED.values())), strict=True))
    assert not [why for why, answer in answers.items() if not answer.refused or answer.files]


def test_the_schema_knows_every_value_and_no_other() -> None:
    import json

    def keys(tree: Any, schema: Mapping[str, Any], path: str = "") -> Iterator[str]:  # noqa: ANN401 - any YAML
        properties = schema.get("properties", {})
        if isinstance(tree, dict) and properties:
            yield from (f"{path}.{key}" for key in {*tree} ^ {*properties} - {"global"})
            for key in {*tree} & {*properties}:
                yield from keys(tree[key], properties[key], f"{path}.{key}")

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert not list(keys(values, json.loads((CHART / "values.schema.json").read_text())))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_objects_find_each_other(scenario: str, manifests: Objects) -> None:
    objects = manifests[scenario]
    pods = [workload["spec"]["template"] for workload in workloads(objects)]
    for workload in workloads(objects):
        assert (
            workload["spec"]["selector"]["matchLabels"].items()
            <= workload["spec"]["template"]["metadata"]["labels"].items()
        )
    for service in of_kind(objects, "Service"):
        (pod,) = [pod for pod in pods if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports(pod)
    for policy in of_kind(objects, "NetworkPolicy"):
        chosen = policy["spec"]["podSelector"]["matchLabels"]
        (pod,) = [pod for pod in pods if chosen.items() <= pod["metadata"]["labels"].items()]
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= ports(pod)
    for pod in pods:
        there = {volume["name"] for volume in pod["spec"]["volumes"]} | {"state"}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= there


def ports(pod: Mapping[str, Any]) -> set[str]:
    return {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}


def test_the_monitor_finds_the_coordinators_service(manifests: Objects) -> None:
    (monitor,) = of_kind(manifests["all options"], "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    (service,) = [
        one
        for one in of_kind(manifests["all options"], "Service")
        if wanted.items() <= one["metadata"]["labels"].items()
    ]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["authorization"]["credentials"] == {"name": "metrics", "key": "key"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_container_is_more_than_it_needs_to_be(scenario: str, manifests: Objects) -> None:
    found = list(containers(manifests[scenario]))
    assert found
    for container in found:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(container["resources"])
    for workload in workloads(manifests[scenario]):
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_container_runs_a_command_line_that_osai_takes(
    scenario: str, manifests: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = {"/etc/osai": tmp_path / "etc", "/models": tmp_path / "models", "/var/lib/osai": tmp_path / "state"}
    for folder in ("etc/trust", "etc/keys", "etc/tokens", "models/a", "models/b", "state/swarm", "home"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("etc/trust/a.pub", "etc/trust/b.pub", "etc/keys/api-keys.json"):
        (tmp_path / name).write_text("")
    (tmp_path / "etc" / "tokens" / "osai-node-0").write_text("osai1.token\n")
    calls: dict[str, Mapping[str, object]] = {}
    for container in containers(manifests[scenario]):
        command = [*container["command"], *container["args"]]
        for place, there in mounts.items():
            command = [word.replace(place, str(there)) for word in command]
        environment = {one["name"]: str(one.get("value", "osai-node-0")) for one in container.get("env", ())}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for call in called(command, tmp_path, environment | {"HOME": str(tmp_path / "home")}):
            calls[" ".join(call[:2])] = understood(call, environment)
    joined, served = calls["osai-node join"], calls["osai-coordinator serve"]
    assert joined["address"] == "osai-coordinator:7070"
    assert joined["token"] == ("" if scenario == "public" else "osai1.token")
    assert joined["device"] == ("cuda" if scenario == "all options" else "cpu")
    assert joined["announce"] == "osai-node-0"
    assert (served["swarm_dir"] is None) == (scenario == "public")
    assert ("osai swarm" in calls) == (scenario != "public")
    assert ("osai-coordinator key" in calls) == (scenario in {"defaults", "bare"})
    if scenario == "all options":
        assert served["standby"]
        assert served["queue_timeout_s"] == 60
        assert len(served["trust"]) == len(joined["trust"]) == len(served["folders"]) == 2  # type: ignore[arg-type]
        assert joined["serve_rate"] == "0"


def test_gpus_are_asked_for_and_the_image_is_for_them(manifests: Objects) -> None:
    (nodes,) = of_kind(manifests["all options"], "StatefulSet")
    (container,) = nodes["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    (default,) = of_kind(manifests["defaults"], "StatefulSet")
    assert "nvidia.com/gpu" not in default["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_a_release_of_any_name_has_objects_of_its_own() -> None:
    (one,) = render(CHART, [{}], release="alpha")
    names = {found["metadata"]["name"] for text in one.files.values() for found in loaded(text)}
    assert names
    assert all(name.startswith("alpha-osai") for name in names)


def loaded(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if isinstance(one, dict) and "metadata" in one]
