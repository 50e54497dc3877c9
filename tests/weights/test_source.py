"""Reading a folder by byte range, and which source a word names."""

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from osai.core.errors import SetupError, WeightsError
from osai.node.weights.source import CheckpointSource, LocalFolder, open_source, read_file

SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def source(folder: Path) -> LocalFolder:
    return LocalFolder(folder)


def test_a_range_is_read_exactly(folder: Path, source: LocalFolder) -> None:
    data = (folder / SHARD).read_bytes()
    assert source.read(SHARD, 3, 77) == data[3:77]
    assert source.read(SHARD, 0, len(data)) == data
    assert source.read(SHARD, 5, 5) == b""
    assert source.size(SHARD) == len(data)
    assert read_file(source, "config.json", 100) == b'{"num_hidden_layers": 2}'
    assert source.describe() == f"folder {folder}"


def test_what_is_read_is_a_copy(folder: Path, source: LocalFolder) -> None:
    data = source.read("config.json", 0, 5)
    (folder / "config.json").write_bytes(b"#" * 24)
    assert data == b'{"num'


def test_files_are_listed(folder: Path, source: LocalFolder) -> None:
    (folder / ".git").mkdir()
    os.mkfifo(folder / "pipe")
    assert source.list_files() == {
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        SHARD,
        "additional_chat_templates/tools.jinja",
    }


@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_a_path_that_leaves_the_folder_is_refused(source: LocalFolder, file: str) -> None:
    with pytest.raises(WeightsError, match="no path inside a checkpoint"):
        source.read(file, 0, 1)
    with pytest.raises(WeightsError, match="no path inside a checkpoint"):
        source.size(file)


@pytest.mark.parametrize(
    ("file", "begin", "end", "says"),
    [
        ("config.json", 0, 25, "ends before byte 25"),
        ("config.json", 2**50, 2**51, "ends before byte"),
        ("config.json", 5, 3, "no range"),
        ("config.json", -1, 3, "no range"),
        ("nothing.json", 0, 1, "is missing"),
        ("additional_chat_templates", 0, 1, "is missing"),
        ("pipe", 0, 1, "is missing"),
    ],
)
def test_bytes_that_are_not_there(
    folder: Path, source: LocalFolder, file: str, begin: int, end: int, says: str
) -> None:
    os.mkfifo(folder / "pipe")  # opening it would block for ever
    with pytest.raises(WeightsError, match=says):
        source.read(file, begin, end)


def test_a_large_small_file_is_refused(source: LocalFolder) -> None:
    with pytest.raises(WeightsError, match=r"config\.json has 24 bytes, over the limit of 23"):
        read_file(source, "config.json", 23)


def test_a_folder_that_went_away(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="can't read"):
        LocalFolder(tmp_path / "nothing").list_files()


def test_words_for_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in (str(folder), f"file://{folder}"):
        assert isinstance(open_source(word), LocalFolder)
    monkeypatch.chdir(folder.parent.parent)
    relative = f"{folder.parent.name}/{folder.name}"  # looks like a hub id too: the folder is there, so it is meant
    assert isinstance(open_source(relative), LocalFolder)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("/no/such/folder", "no folder '/no/such/folder'; give"),
        ("file:///no/such/folder", "no folder"),
        ("./nothing", "no folder"),
        ("small", "no folder 'small'"),
        ("a/b/c", "no folder"),
        ("", "no folder"),
        ("hf://a/b/c", "no folder"),
        ("nosuch://host/model", "can't be read"),
    ],
)
def test_words_for_nothing(word: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match=says):
        open_source(word)


def test_a_revision_goes_with_a_hub_id_only(folder: Path) -> None:
    with pytest.raises(SetupError, match="a revision goes with a hub id"):
        open_source(str(folder), "v1")
    with pytest.raises(SetupError, match="a revision goes with a hub id"):
        open_source("https://host/model", "v1")


def test_heavy_packages_are_not_imported_before_they_are_needed() -> None:
    program = (
        "import sys, osai.node.weights.source\n"
        "sys.exit(bool({'torch', 'transformers', 'huggingface_hub', 'fsspec'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)}, timeout=60)


def copy_to_memory(folder: Path) -> CheckpointSource:
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/small", recursive=True)
    return open_source("memory://small")


def test_a_url_of_fsspec_reads_as_the_folder_does(folder: Path, source: LocalFolder) -> None:
    remote = copy_to_memory(folder)
    assert remote.list_files() == source.list_files()
    assert remote.size(SHARD) == source.size(SHARD)
    assert remote.read(SHARD, 3, 77) == source.read(SHARD, 3, 77)
    assert remote.read(SHARD, 3, 3) == b""
    with pytest.raises(WeightsError, match="where 1000000 were asked for"):
        remote.read(SHARD, 0, 10**6)
    with pytest.raises(WeightsError, match="can't read nothing from memory:"):
        remote.read("nothing", 0, 5)
    with pytest.raises(WeightsError, match="can't read nothing from memory:"):
        remote.size("nothing")
