"""docs/metrics.md, docs/configuration.md, the dashboard and the units against what the programs have."""

import configparser
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector
from scripts.configuration import FILE, document

from gateway.fake_generations import example_swarm
from osai.coordinator.cli import main as coordinator
from osai.coordinator.gateway.metrics import Metrics, SwarmCollector
from osai.core.config_file import parameters
from osai.node.cli import main as node
from osai.node.engine.engine import Engine
from osai.node.engine_meter import EngineMeter
from osai.node.metrics import NodeCollector, NodeMetrics

UNITS = ("osai-node.service", "osai-coordinator.service")
COMMANDS = {"osai-node": ("join", node), "osai-coordinator": ("serve", coordinator)}
HARDENED = ("NoNewPrivileges", "DynamicUser", "ProtectHome", "PrivateTmp", "RestrictSUIDSGID", "LockPersonality")
_WORD = re.compile(r"\bosai_\w+")
_BALANCED = {")": "(", "]": "[", "}": "{"}


def metrics_of(registry: CollectorRegistry) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Kind and labels of each metric of a registry, by the name that a table gives it."""
    found = {}
    collectors: list[Collector] = list(registry._collector_to_names)
    for collector in collectors:
        for family in collector.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = getattr(collector, "_labelnames", None)
            found[name] = family.type, tuple(labels if labels is not None else _labels(family))
    return found


def _labels(family: Any) -> Iterator[str]:  # noqa: ANN401 - its own attribute
    yield from getattr(family, "_labelnames", ())


@pytest.fixture(scope="module")
def of_coordinator() -> dict[str, tuple[str, tuple[str, ...]]]:
    metrics = Metrics(CollectorRegistry())
    metrics.registry.register(SwarmCollector(example_swarm))
    return metrics_of(metrics.registry)


@pytest.fixture(scope="module")
def of_node() -> dict[str, tuple[str, tuple[str, ...]]]:
    metrics = NodeMetrics(CollectorRegistry())
    engine = Engine.__new__(Engine)  # no span: it is not asked
    metrics.registry.register(NodeCollector(EngineMeter(), engine, lambda: 0, lambda: 0))
    return metrics_of(metrics.registry)


def test_the_tables_are_the_registries(
    root: Path, of_coordinator: dict[str, tuple[str, tuple[str, ...]]], of_node: dict[str, tuple[str, tuple[str, ...]]]
) -> None:
    text = (root / "docs" / "metrics.md").read_text()
    first, second = text.index("### Of a coordinator"), text.index("### Of a node")
    for part, registry in ((text[first:second], of_coordinator), (text[second:], of_node)):
        rows = re.findall(r"^\| `(osai_\w+)` \| (\w+) \| ([\w, ]*) ?\| .+ \|$", part, re.MULTILINE)
        told = {name: (kind, tuple(re.findall(r"\w+", labels))) for name, kind, labels in rows}
        assert told == registry


def expressions(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for panel in panels:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_the_dashboard_names_only_metrics_that_exist_and_every_one_of_them(
    root: Path, of_coordinator: dict[str, tuple[str, tuple[str, ...]]], of_node: dict[str, tuple[str, tuple[str, ...]]]
) -> None:
    dashboard = json.loads((root / "docs" / "grafana" / "osai.json").read_text())
    known = {}
    for name, (kind, labels) in {**of_coordinator, **of_node}.items():
        for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            known[name + suffix] = (name, {*labels, "instance", "le"})
    seen = set()
    for title, expression in expressions(dashboard["panels"]):
        names = _WORD.findall(expression)
        assert names, title
        assert set(names) <= known.keys(), title
        seen |= {known[name][0] for name in names}
        for name, selector in re.findall(r"(osai_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*=~", selector)) <= known[name][1], title
        for by in re.findall(r"by \(([\w, ]+)\)", expression):
            assert set(re.split(r", *", by)) <= set.union(*(known[name][1] for name in names)), title
    assert seen == {*of_coordinator, *of_node}
    for variable in dashboard["templating"]["list"][1:]:
        assert set(_WORD.findall(variable["query"]["query"])) <= {*of_coordinator, *of_node}


def test_the_dashboards_expressions_are_well_formed_and_its_panels_do_not_overlap(root: Path) -> None:
    dashboard = json.loads((root / "docs" / "grafana" / "osai.json").read_text())
    for title, expression in expressions(dashboard["panels"]):
        opened: list[str] = []
        for letter in re.sub(r'"[^"]*"', "", expression):
            if letter in "([{":
                opened.append(letter)
            elif letter in _BALANCED:
                assert opened, title
                assert opened.pop() == _BALANCED[letter], title
        assert not opened, title
    places = [
        (x, y)
        for panel in dashboard["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_configuration_document_is_current() -> None:
    assert document() == FILE.read_text(), "run scripts/config_docs"


@pytest.mark.parametrize(("program", "name", "group"), [(key, *value) for key, value in COMMANDS.items()])
def test_every_option_can_stand_in_a_file_under_a_name_of_its_own(program: str, name: str, group: Any) -> None:  # noqa: ANN401
    command = group.commands[name]
    left_out = {param.name for param in command.params} - {param.name for param in parameters(command).values()}
    assert left_out == {"config"}, program


def unit_of(path: Path) -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text())
    return unit


@pytest.mark.parametrize("name", UNITS)
def test_units_are_shut_in_and_start_what_exists(root: Path, name: str) -> None:
    unit = unit_of(root / "docs" / "systemd" / name)
    service = unit["Service"]
    assert all(service[key] == "yes" for key in HARDENED)
    assert (service["ProtectSystem"], service["CapabilityBoundingSet"]) == ("strict", "")
    program, command, *options = service["ExecStart"].split()
    known, group = COMMANDS[Path(program).name]
    assert command == known
    assert options[0] in {opt for param in group.commands[command].params for opt in param.opts}
    assert float(service["TimeoutStopSec"]) >= (45 if command == "join" else 10)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze here")
def test_systemd_accepts_the_units(root: Path, tmp_path: Path) -> None:
    for name in UNITS:
        text = (root / "docs" / "systemd" / name).read_text()
        (tmp_path / name).write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    files = [str(tmp_path / name) for name in UNITS]
    run = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("group", [node, coordinator])
def test_programs_say_their_version(group: Any) -> None:  # noqa: ANN401 - a click group
    from click.testing import CliRunner

    assert re.fullmatch(r"osai/\S+\n", CliRunner().invoke(group, ["--version"]).output)
