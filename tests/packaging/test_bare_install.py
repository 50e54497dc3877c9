"""The wheel of osai in a bare environment: with the distributions that it asks for, and nothing else."""

import os
import subprocess
import venv
from collections.abc import Iterator
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from client.fake_coordinator import FakeCoordinator, serving
from osai.client.cli import COMMANDS

MAX_IMPORT_S = 0.3
HEAVY = ("torch", "transformers", "numpy", "hivemind", "rich", "prompt_toolkit", "safetensors")


def needed(metadata: str) -> Iterator[Distribution]:
    """The distributions that a wheel's metadata ask for, and those that these ask for."""
    waiting: list[str] = Parser().parsestr(metadata).get_all("Requires-Dist", [])
    seen: set[str] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in seen:
            seen.add(requirement.name)
            yield (found := distribution(requirement.name))
            waiting += found.requires or []


def link(found: Distribution, site: Path) -> None:
    """Lend a distribution's files to another environment."""
    for file in found.files or ():
        top = site / file.parts[0]
        if ".." not in file.parts and not top.exists():
            top.symlink_to(Path(str(found.locate_file(file.parts[0]))))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and its bare dependencies."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    with ZipFile(wheel) as archive:
        archive.extractall(site)
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        for found in needed(archive.read(metadata).decode()):
            link(found, site)
    return folder / "bin" / "python"


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OSAI"))}
    command = [str(python), "-I", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_environment_is_bare(python: Path) -> None:
    for name in ("torch", "transformers", "numpy", "fastapi"):
        assert "ModuleNotFoundError" in run(python, "-c", f"import {name}").stderr


def test_the_client_imports_quickly_and_brings_nothing_heavy(python: Path) -> None:
    program = (
        "import sys, time\n"
        "begun = time.process_time()\n"
        "import osai.client\n"
        "spent_s = time.process_time() - begun\n"
        f"print(osai.client.__file__, spent_s, *set({HEAVY}) & sys.modules.keys())\n"
    )
    runs = [run(python, "-c", program) for _ in range(4)]  # the first one compiles
    assert [done.stderr for done in runs] == [""] * 4
    files, spent, *heavy = zip(*(done.stdout.split() for done in runs), strict=True)
    assert heavy == []
    assert all(Path(file).is_relative_to(python.parents[1]) for file in files)
    assert min(map(float, spent)) < MAX_IMPORT_S, spent


def test_it_generates(python: Path) -> None:
    with serving(FakeCoordinator()) as address:
        done = run(python, "-m", "osai.client", "generate", "--coordinator", address, "x")
    assert (done.returncode, done.stdout) == (0, "All the world's a stage\n"), done.stderr


def test_every_command_is_there(python: Path) -> None:
    program = (
        "import click\n"
        "from osai.client.cli import COMMANDS, main\n"
        "print(*(main.get_command(click.Context(main), name).name for name in COMMANDS))\n"
    )
    done = run(python, "-c", program)
    assert (done.stderr, done.stdout.split()) == ("", list(COMMANDS))


def test_a_swarm_on_this_machine_says_what_to_install(python: Path) -> None:
    done = run(python, "-m", "osai.client", "up")
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'osai[all]'" in done.stderr
    assert done.stderr.count("\n") == 1
