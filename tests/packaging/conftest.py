import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOMS = ("proto", "core", "client", "node", "coordinator")


def imports_of(tree: ast.Module, package: str) -> Iterator[str]:
    """Every dotted name that a module of `package` imports, wherever in it; `from a import b` gives both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def project(root: Path) -> Mapping[str, Any]:
    """pyproject.toml's [project] table."""
    table: Mapping[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return table


@pytest.fixture(scope="session")
def room_folders(root: Path) -> Mapping[str, Path]:
    """Each room's folder of Python code, by the room's name."""
    folders = {room: root / ("protos" if room == "proto" else room) / "osai" / room for room in ROOMS}
    assert all(folder.is_dir() for folder in folders.values())
    return folders


@pytest.fixture(scope="session")
def imports(room_folders: Mapping[str, Path]) -> Mapping[str, frozenset[str]]:
    """What each module of the rooms imports, by the module's dotted name; a package goes by its own name."""
    found = {}
    for room, folder in room_folders.items():
        for path in folder.rglob("*.py"):
            name = ".".join(["osai", room, *path.relative_to(folder).with_suffix("").parts])
            package, _, last = name.rpartition(".")
            tree = ast.parse(path.read_text(), str(path))
            found[package if last == "__init__" else name] = frozenset(imports_of(tree, package))
    return found


def built(project: Path, folder: Path) -> Path:
    """The wheel of the project in one folder, built offline into another one."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    run = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of osai."""
    return built(root, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def embedded_wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the small model."""
    return built(root / "core" / "embedded_model", tmp_path_factory.mktemp("wheel"))
