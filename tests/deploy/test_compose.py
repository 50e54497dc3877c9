"""The Compose files: read as Compose reads them, and what their containers run."""

import copy
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from deploy.commands import called, understood
from deploy.conftest import ROOT

FILES = ("compose.yaml", "compose.model.yaml")
MODEL = {"OSAI_MODEL_ID": "org/mine", "OSAI_MODEL_DIR": "/models/mine", "OSAI_PUBLISHER": "/keys/org.pub"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """As Compose does before it parses: ${NAME}, ${NAME:-default}, ${NAME:?why}."""

    def value(found: "re.Match[str]") -> str:
        name, mark, rest = found.groups()
        if mark == "?" and not environment.get(name):
            raise KeyError(rest)
        return environment.get(name) or (rest if mark == "-" else "")

    return _VARIABLE.sub(value, text)


def load(file: str, environment: Mapping[str, str] = MODEL) -> dict[str, Any]:
    return checked(yaml.safe_load(interpolated((ROOT / "deploy" / file).read_text(), environment)))


def checked(plain: dict[str, Any]) -> dict[str, Any]:
    """What Compose's specification makes of a file whose YAML merges are done; ValueError if it refuses it."""
    read = compose_spec.PyCompose.from_json(json.dumps(plain))
    for check in (read.validate_networks, read.validate_volumes, read.validate_secrets, read.validate_configs):
        check()
    return dict(read.to_dict())


@pytest.fixture
def services() -> Mapping[str, dict[str, Any]]:
    found: Mapping[str, dict[str, Any]] = load("compose.yaml")["services"]
    return found


@pytest.mark.parametrize("file", FILES)
def test_compose_takes_the_file(file: str) -> None:
    assert set(load(file)["services"]) == {"coordinator", "node-1", "node-2"}


def test_files_that_were_damaged_are_refused() -> None:
    plain = yaml.safe_load(interpolated((ROOT / "deploy" / "compose.yaml").read_text(), {}))
    for key, value in (("read_onyl", True), ("read_only", "often"), ("ports", [{"target": "http"}]), ("image", 7)):
        damaged = copy.deepcopy(plain)
        damaged["services"]["coordinator"][key] = value
        with pytest.raises(ValueError, match=r".+"):
            checked(damaged)
    del plain["networks"]["swarm"]
    with pytest.raises(ValueError, match="network `swarm`"):
        checked(plain)


@pytest.mark.parametrize("missing", MODEL)
def test_a_model_of_ones_own_needs_all_that_it_asks_for(missing: str) -> None:
    with pytest.raises(KeyError):
        load("compose.model.yaml", {key: value for key, value in MODEL.items() if key != missing})


def test_every_container_is_shut_in(services: Mapping[str, dict[str, Any]]) -> None:
    assert set(load("compose.yaml")["volumes"]) == set(services)
    for name, service in services.items():
        assert service["read_only"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["networks"] == ["swarm"], name
        assert service["volumes"] == [f"{name}:/var/lib/osai"], name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert "privileged" not in service, name


def test_only_the_coordinator_is_reachable_and_only_from_this_machine(services: Mapping[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"coordinator": ["127.0.0.1:7070:7070", "127.0.0.1:8080:8080"]}


def test_nodes_get_the_time_to_hand_their_sessions_over(services: Mapping[str, dict[str, Any]]) -> None:
    joined = understood(services["node-1"]["command"], {})
    grace_s = compose_spec.parse_duration(services["node-1"]["stop_grace_period"])
    assert float(str(joined["drain_timeout"])) < grace_s


@pytest.mark.parametrize("with_model", [False, True])
def test_every_container_runs_a_command_line_that_osai_takes(
    with_model: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, services: Mapping[str, dict[str, Any]]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "publisher.pub").write_text("")
    places = {"/models/model": str(tmp_path / "model"), "/etc/osai/publisher.pub": str(tmp_path / "publisher.pub")}
    more = load("compose.model.yaml")["services"] if with_model else {}
    for name, service in services.items():
        environment = {
            key: places.get(value, value) for key, value in more.get(name, {}).get("environment", {}).items()
        }
        with monkeypatch.context() as patch:
            for key, value in environment.items():
                patch.setenv(key, value)
            params = understood(service["command"], environment)
            if with_model:
                assert list(params["trust"]) == [tmp_path / "publisher.pub"]  # type: ignore[call-overload]
                assert params.get("models", ("org/mine",)) == ("org/mine",)
                assert params.get("weights", (places["/models/model"],)) == (places["/models/model"],)
        (call,) = called(service["healthcheck"]["test"][1:], tmp_path, {})
        assert understood(call, {})["address"] == ("127.0.0.1:7070" if name == "coordinator" else "127.0.0.1:7071")


def test_the_model_is_mounted_where_its_variables_point() -> None:
    for name, service in load("compose.model.yaml")["services"].items():
        mounted = {volume["target"]: volume for volume in service["volumes"]}
        assert all(volume["read_only"] for volume in mounted.values())
        named = {value for value in service["environment"].values() if os.path.isabs(value)}  # noqa: PTH117 - a text
        assert named == set(mounted), name
