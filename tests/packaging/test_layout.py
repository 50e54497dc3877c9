import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

MAX_SOURCE_LINES = 300
MAX_TEST_LINES = 400


def test_osai_stays_a_namespace_that_all_rooms_share(root: Path, room_folders: Mapping[str, Path]) -> None:
    assert not [folder for folder in room_folders.values() if (folder.parent / "__init__.py").exists()]
    assert not list(root.glob("*/__init__.py"))


def test_each_root_holds_its_room_alone(room_folders: Mapping[str, Path]) -> None:
    for folder in room_folders.values():
        assert [path.name for path in folder.parent.iterdir() if path.name != "__pycache__"] == [folder.name]


def test_every_room_says_that_it_is_typed(room_folders: Mapping[str, Path]) -> None:
    assert not [room for room, folder in room_folders.items() if not (folder / "py.typed").is_file()]


def test_scripts_without_a_suffix_can_be_run(root: Path) -> None:
    scripts = [*(path for path in (root / "scripts").iterdir() if path.is_file() and not path.suffix), root / ".ci/run"]
    assert {"setup", "test", "check", "demo", "protos"} <= {path.name for path in scripts}
    assert not [path for path in scripts if not os.access(path, os.X_OK) or not path.read_bytes().startswith(b"#!")]


def test_no_source_file_is_long(root: Path, room_folders: Mapping[str, Path]) -> None:
    limits = dict.fromkeys([*room_folders.values(), root / "scripts"], MAX_SOURCE_LINES) | {
        root / "tests": MAX_TEST_LINES
    }
    lengths = {
        path: (len(path.read_text().splitlines()), limit)
        for folder, limit in limits.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in {".py", ".proto", ""} and "_pb2" not in path.name
    }
    assert not [f"{path}: {lines} lines" for path, (lines, limit) in lengths.items() if lines > limit]


def test_the_client_starts_without_the_heavy_parts(root: Path) -> None:
    roots = [str(root / folder) for folder in ("protos", "core", "client")]
    heavy = {"torch", "transformers", "hivemind", "numpy"}
    code = f"import sys, osai.client, osai.client.cli; print(*{heavy} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr, run.stdout.strip()) == (0, "", "")


def test_setup_names_what_is_missing_when_there_is_no_python(root: Path, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "setup"
    script.write_bytes((root / "scripts" / "setup").read_bytes())
    environment = {**os.environ, "PYTHON": "/nowhere/python3"}
    run = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "no Python 3.11 or newer" in run.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("arguments", [["--kepp"], ["--keep", "now"]])
def test_demo_refuses_unknown_arguments(root: Path, arguments: list[str]) -> None:
    run = subprocess.run([root / "scripts/demo", *arguments], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (2, "usage: scripts/demo [--keep]\n")
