"""The Dockerfile, as far as it can be tried where no Docker engine is: what it copies, installs, starts and is."""

import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from deploy.commands import PROGRAMS, called, understood
from deploy.conftest import ROOT
from deploy.dockerfile import Stage, lineage, stages

TARGETS = ("cpu", "cuda")
KERNELS_NEED = {"gcc", "libc6-dev"}  # at run time: see osai.node.engine.kernels.build
WHEELS_ARE_MADE_OF = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "protos", "core", "client", "node",
                      "coordinator", "core/embedded_model/pyproject.toml")  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, Stage]:
    return stages(ROOT / "Dockerfile")


def all_of(found: dict[str, Stage], target: str, instruction: str) -> list[str]:
    return [rest for stage in lineage(found, target) for rest in stage.of(instruction)]


def test_base_images_are_pinned_to_a_full_version(found: dict[str, Stage]) -> None:
    arguments = dict(line.split("=", 1) for line in found[""].of("ARG"))
    foreign = {stage.base for name, stage in found.items() if name and stage.base not in found}
    assert foreign == {"${PYTHON_IMAGE}"}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", arguments["PYTHON_IMAGE"])


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_special_and_says_what_it_is(target: str, found: dict[str, Stage]) -> None:
    assert all_of(found, target, "USER")[-1] == "10001:10001"
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", " ".join(all_of(found, target, "LABEL"))))
    assert {"title", "description", "vendor", "licenses", "version", "revision", "source"} <= labels
    assert all_of(found, target, "VOLUME") == ["/var/lib/osai"]
    assert all_of(found, target, "STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_the_compiler_of_the_kernels_and_no_other_tool(target: str, found: dict[str, Stage]) -> None:
    installs = [re.findall(r"install -y --no-install-recommends ([^&]+)", run) for run in all_of(found, target, "RUN")]
    assert {name for run in installs for part in run for name in part.split()} == KERNELS_NEED
    copied = all_of(found, target, "COPY")
    assert copied == [f"--from={target}-venv /opt/osai /opt/osai"]  # the last stage copies what was built, not sources


def test_what_is_copied_is_there_and_not_ignored(found: dict[str, Stage]) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    for path in WHEELS_ARE_MADE_OF:
        assert (ROOT / path).exists(), path
        assert any(fnmatch(path, pattern) or path.startswith(f"{pattern}/") for pattern in kept), path
    sources = [rest.split()[0] for stage in found.values() for rest in stage.of("COPY") if "--from" not in rest]
    assert sources == ["constraints.txt", "."]


def test_every_stage_that_is_named_is_there(found: dict[str, Stage]) -> None:
    text = " ".join(rest for stage in found.values() for _, rest in stage.instructions)
    assert set(re.findall(r"from=([\w-]+)", text)) <= set(found)


@pytest.mark.parametrize("target", TARGETS)
def test_pip_is_given_what_it_takes(target: str, found: dict[str, Stage], tmp_path: Path) -> None:
    """The RUN lines themselves, in a folder like the image's, with pip told to resolve nothing and install nothing."""
    (tmp_path / "constraints.txt").write_bytes((ROOT / "constraints.txt").read_bytes())
    (tmp_path / "wheels").mkdir()
    for name in ("osai-0.1.0-py3-none-any.whl", "osai_embedded-0.1.0-py3-none-any.whl"):
        (tmp_path / "wheels" / name).write_bytes(b"")
    (tmp_path / "pip").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/calls\n')
    (tmp_path / "pip").chmod(0o755)
    for run in found[f"{target}-venv"].of("RUN"):
        line = re.sub(r"--mount=\S+", "", run).replace("/opt/osai/bin/pip", "./pip").replace("/wheels", "./wheels")
        subprocess.run(["sh", "-ec", line], cwd=tmp_path, env={"TORCH_CPU_INDEX": "https://example.org"}, check=True)
    words = (tmp_path / "calls").read_text().split()
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    (named,) = [word for word in words if word.endswith("]")]
    extras = named.partition("[")[2].rstrip("]").split(",")
    assert torch in words
    assert "./wheels/osai_embedded-0.1.0-py3-none-any.whl" in words
    assert set(extras) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert ("cuda" in extras) == (target == "cuda")


def test_the_image_offers_the_programs_of_the_package(
    found: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == set(PROGRAMS)
    health = json.loads(found["runtime"].of("HEALTHCHECK")[0].partition("CMD ")[2])
    (call,) = called(health, tmp_path, {})  # the stub succeeds, and so no second one is asked
    assert understood(call, {})["address"] == "127.0.0.1:7071"
    pairs = re.findall(r"(OSAI_\w+)=(\S+)", " ".join(found["runtime"].of("ENV")))
    assert len(pairs) == 3
    for name, value in pairs:
        monkeypatch.setenv(name, value)
    joined = understood(["osai-node", "join", "coordinator:7070"], dict(pairs))
    served = understood(["osai-coordinator", "serve"], dict(pairs))
    assert (joined["listen"], joined["dht_listen"], served["dht_listen"]) == (
        "0.0.0.0:7071",
        "0.0.0.0:7072",
        "0.0.0.0:7072",
    )
    exposed = set(found["runtime"].of("EXPOSE")[0].split())
    assert {str(value).rpartition(":")[2] for value in (*(v for _, v in pairs), served["listen"])} | {"8080"} == exposed


def test_hadolint_finds_what_it_should(tmp_path: Path) -> None:
    """scripts/check runs it over ours; here it is seen to refuse one that is worse."""
    hadolint = Path(sys.executable).parent / "hadolint"
    worse = tmp_path / "Dockerfile"
    worse.write_text((ROOT / "Dockerfile").read_text().replace("python:3.11.14-slim-bookworm", "python:latest"))
    worse.write_text(worse.read_text().replace('CMD ["osai", "--help"]', "CMD osai --help"))
    runs = [subprocess.run([hadolint, "--failure-threshold", "style", path], capture_output=True, check=False)
            for path in (ROOT / "Dockerfile", worse)]  # fmt: skip
    assert [run.returncode for run in runs] == [0, 1]
