"""What a built wheel holds and says."""

import os
import subprocess
import sys
from collections.abc import Mapping
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

SUFFIXES_LEFT_OUT = {".pyc"}
MAX_WHEEL_BYTES = 1_000_000


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_rooms_and_nothing_else(wheel: Path, room_folders: Mapping[str, Path]) -> None:
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(folder.parents[1]).as_posix()
        for folder in room_folders.values()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in SUFFIXES_LEFT_OUT
    }
    assert held == expected
    assert {"osai/proto/client_pb2.py", "osai/proto/client_pb2_grpc.py", "osai/proto/py.typed"} <= held
    assert "osai/__init__.py" not in held


def test_the_wheel_stays_under_a_megabyte(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_the_bare_wheel_needs_no_torch_and_no_model_code(metadata: Message) -> None:
    requirements = metadata.get_all("Requires-Dist", [])
    bare = [line for line in requirements if "extra ==" not in line]
    heavy = ("torch", "transformers", "hivemind", "safetensors", "numpy", "fastapi")
    assert bare
    assert not [line for line in bare if line.startswith(heavy)]
    assert any(line.startswith("torch") and "extra == 'node'" in line for line in requirements)


def test_the_extras_are_offered(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "node",
        "coordinator",
        "all",
        "cuda",
        "flashinfer",
        "bench",
        "oms",
        "traces",
        "fuzz",
        "dev",
    }
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_console_scripts_are_declared(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        lines = archive.read(name).decode().splitlines()
    assert [line.split(" = ")[0] for line in lines[1:]] == ["osai", "osai-coordinator", "osai-node"]


@pytest.mark.parametrize("module", ["osai.client.cli", "osai.node.cli", "osai.coordinator.cli"])
def test_the_console_scripts_run_from_the_wheel_alone(wheel: Path, tmp_path: Path, module: str) -> None:
    site = tmp_path / "site"
    with ZipFile(wheel) as archive:
        archive.extractall(site)
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import {module} as cli; print(cli.__file__); cli.main()"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", code, "--help"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(site))
    assert "Usage:" in run.stdout
