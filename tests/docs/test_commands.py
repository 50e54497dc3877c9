"""Every command of README.md and docs/*.md is run, in the document's order, or named here with the reason why not."""

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.commands import PROGRAMS, understood
from docs.blocks import Command, commands, strays
from docs.running import ROOT, Place, Reader
from osai.core.embedded import model_dir
from osai.core.manifest import MANIFEST_FILE

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(600)]

NOT_RUN = {
    "docker": "there is no Docker engine where tests run; tests/deploy reads the files that it is given",
    "helm": "there is no cluster; tests/deploy renders the chart by Helm's library",
    "kubectl": "there is no cluster",
    "journalctl": "no systemd",
    "sudo": "a test changes nothing of its machine",
    "./scripts/setup": "scripts/test runs it before any test",
    "./scripts/demo": "four processes that import torch, 40 s of a core; tests/client runs `osai up` with stand-ins",
    "scripts/bench": "tests/benches runs each of them, with small sizes",
}
ONLY_PARSED = {
    "osai up": "as ./scripts/demo",
    "osai chat": "it speaks with a terminal; tests/client gives it one",
}
OWN_TESTS = {"client.md": "tests/client runs its examples"}  # of Python alone: its commands are run here
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = [path for path in DOCUMENTS if commands(path)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, with a model of the reader's own in it: the small one, unsigned."""
    folder = tmp_path_factory.mktemp("docs") / "osai"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "tests")
    shutil.copytree(ROOT, folder, ignore=left_out)
    shutil.copytree(model_dir(), folder / "my-model", ignore=shutil.ignore_patterns(MANIFEST_FILE))
    return folder


@pytest.fixture(scope="module")
def public(checkout: Path) -> Iterator[Place]:
    """The swarm of swarm.example.org: a coordinator, and a node with the whole of the small model."""
    nobody = Place(grpc="", http="")
    operator = Reader.arriving(checkout, checkout.with_name("operator"), nobody)
    try:
        for text in ("osai-coordinator serve", "osai-node join coordinator.example.org:7070"):
            operator.run(Command(document="", line=0, text=text))
        yield operator.own
    finally:
        operator.leave()


@pytest.mark.parametrize("path", RUN, ids=[path.name for path in RUN])
def test_every_command_of_a_document_works(path: Path, checkout: Path, public: Place) -> None:
    typed_in = checkout.with_name(f"osai-{path.stem}")
    shutil.copytree(checkout, typed_in, copy_function=os.link)  # osai replaces files whole: the links stay apart
    reader = Reader.arriving(typed_in, checkout.with_name(path.stem), public)
    try:
        for command in commands(path):
            if is_to_be_run(command, typed_in):
                reader.run(command)
    finally:
        reader.leave()


def is_to_be_run(command: Command, checkout: Path) -> bool:
    """Whether it is; of the others, what osai's programs are given is checked all the same."""
    if command.language == "python":
        return command.document not in OWN_TESTS
    program = next((name for name in NOT_RUN if command.text.split()[0] == name), None)
    parsed = next((name for name in ONLY_PARSED if command.text.startswith(f"{name} ") or command.text == name), None)
    if program is None and parsed is None:
        return True
    words = shlex.split(command.text.replace("\\\n", " "), comments=True)
    inner = words if parsed else words[words.index("--") + 1 :] if "--" in words else []
    if inner and inner[0] in PROGRAMS:
        with contextlib.chdir(checkout):
            understood(inner, {})
    return False


def test_every_command_is_in_a_block_that_is_run() -> None:
    found = [stray for path in DOCUMENTS for stray in strays(path)]
    assert not [stray for stray in found if stray.split(": ", 1)[1].split()[0].removeprefix("./") not in listed()]


def listed() -> set[str]:
    return {name.removeprefix("./") for name in NOT_RUN}


def test_what_is_not_run_is_named_for_a_reason() -> None:
    """No entry that no document needs: else a program could go unrun unseen."""
    typed = [command.text for path in DOCUMENTS for command in commands(path)]
    typed += [stray.split(": ", 1)[1] for path in DOCUMENTS for stray in strays(path)]
    assert not [name for name in NOT_RUN if not any(text.split()[0] in {name, f"./{name}"} for text in typed)]
    assert not [name for name in ONLY_PARSED if not any(text.startswith(name) for text in typed)]
    run = {text.split()[0] for text in typed} - set(NOT_RUN)
    assert {"osai", "osai-node", "osai-coordinator", "pip", "python3", "curl"} <= run
