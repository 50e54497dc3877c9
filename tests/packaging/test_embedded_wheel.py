"""The small model: a wheel of its own, and what is said where it is not installed."""

import tomllib
from collections.abc import Mapping
from email.parser import Parser
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from osai.client.cli import main
from osai.core.embedded import DISTRIBUTION, MODEL_ID, find_model_dir, model_dir, publisher_key_file
from osai.core.errors import WeightsError
from osai.core.manifest import MANIFEST_FILE, TrustMemory, TrustPolicy, parse, parse_public_key, verify

FOLDER = "osai/embedded/shakespeare"
NOW_S = 1_800_000_000.0  # it does not expire


def test_the_wheel_holds_the_model_and_no_code(embedded_wheel: Path) -> None:
    with ZipFile(embedded_wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        told = Parser().parsestr(archive.read(metadata).decode())
    files = {path.name for path in model_dir().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", MANIFEST_FILE} <= files
    assert held == {"osai/embedded/__init__.py", *(f"{FOLDER}/{name}" for name in files)}
    assert told["Name"] == DISTRIBUTION
    assert told["License-Expression"] == "Apache-2.0"
    assert told.get_all("Requires-Dist") is None


def test_the_two_wheels_share_no_file(wheel: Path, embedded_wheel: Path) -> None:
    with ZipFile(wheel) as one, ZipFile(embedded_wheel) as other:
        assert not set(one.namelist()) & set(other.namelist())


def test_the_model_is_signed_by_the_key_that_comes_with_osai(embedded_wheel: Path) -> None:
    with ZipFile(embedded_wheel) as archive:
        signed = parse(archive.read(f"{FOLDER}/{MANIFEST_FILE}"))
    trust = TrustPolicy.pinned(MODEL_ID, parse_public_key(publisher_key_file().read_bytes()))
    verify(signed, trust, now_s=NOW_S, memory=TrustMemory())
    assert signed.manifest.model_id == MODEL_ID


def test_no_extra_asks_an_index_for_it(root: Path, project: Mapping[str, Any]) -> None:
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    assert DISTRIBUTION not in {Requirement(line).name for group in groups for line in group}
    table = tomllib.loads((root / "core" / "embedded_model" / "pyproject.toml").read_text())["project"]
    assert (table["name"], table["version"]) == (DISTRIBUTION, project["version"])


def test_where_it_is_missing_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osai.core.embedded._PACKAGE", "osai.nowhere")
    assert find_model_dir() is None
    with pytest.raises(WeightsError, match="pip install osai-embedded"):
        model_dir()


def test_up_without_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osai.core.embedded._PACKAGE", "osai.nowhere")
    result = CliRunner().invoke(main, ["up"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: the small model {MODEL_ID} is not installed: `pip install osai-embedded`")
    assert result.stderr.count("\n") == 1
