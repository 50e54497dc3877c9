"""Which room may import what, read from the source: nothing is run, so imports inside functions count too."""

import re
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from typing import Any

import pytest

MAY_IMPORT = {
    "proto": {"proto"},
    "core": {"core", "proto"},
    "client": {"client", "core", "proto"},
    "node": {"node", "core", "proto"},
    "coordinator": {"coordinator", "core", "proto"},
}
EXTRAS = {"client": [], "node": ["node"], "coordinator": ["coordinator"]}


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def reachable(imports: Mapping[str, frozenset[str]], room: str) -> set[str]:
    """The modules of osai that any module of a room imports, directly or not, parent packages included."""
    reached: set[str] = set()
    waiting = [module for module in imports if module.split(".")[1] == room]
    while waiting:
        module = waiting.pop()
        if module in imports and module not in reached:
            reached.add(module)
            waiting += imports[module]
            waiting.append(module.rpartition(".")[0])
    return reached


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_in_one_direction(imports: Mapping[str, frozenset[str]], room: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in imports.items()
        for name in names
        if module.split(".")[1] == room and name.startswith("osai.") and name.split(".")[1] not in MAY_IMPORT[room]
    ]
    assert not wrong


def test_the_generated_code_imports_only_protobuf_and_grpc(imports: Mapping[str, frozenset[str]]) -> None:
    modules = [module for module in imports if module.startswith("osai.proto")]
    assert modules
    outside = {name.split(".")[0] for module in modules for name in imports[module]} - sys.stdlib_module_names
    assert outside <= {"osai", "google", "grpc"}


@pytest.mark.parametrize("room", EXTRAS)
def test_each_room_imports_only_what_its_extra_declares(
    imports: Mapping[str, frozenset[str]], project: Mapping[str, Any], room: str
) -> None:
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(line for extra in EXTRAS[room] for line in extras[extra])]
    declared = {canonical(re.split(r"[^\w.-]", line)[0]) for line in requirements}
    distributions = packages_distributions()
    undeclared = [
        f"{module} imports {package}"
        for module in reachable(imports, room)
        for package in {name.split(".")[0] for name in imports[module]} - sys.stdlib_module_names - {"osai"}
        if not declared & {canonical(name) for name in distributions.get(package, [])}
    ]
    assert not undeclared
