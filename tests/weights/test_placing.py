"""Bytes that are read to where they are to stay: the same as those that are copied, and as strictly checked."""

from pathlib import Path

import pytest
import torch

from osai.core.errors import WeightsError
from osai.core.manifest import SignedManifest
from osai.node.weights.cache import ChunkCache, Hashed
from osai.node.weights.source import LocalFolder, PlacingFolder, PlacingSource, open_source
from osai.node.weights.verified import VerifiedCheckpoint


def test_a_folder_is_read_in_place(folder: Path, signed: SignedManifest, tensors: dict[str, torch.Tensor]) -> None:
    source = open_source(str(folder))
    assert isinstance(source, PlacingSource)
    assert not isinstance(LocalFolder(folder), PlacingSource)
    counted: list[int] = []
    checkpoint = VerifiedCheckpoint(source, signed, counted.append)
    for name, expected in tensors.items():
        assert torch.equal(checkpoint.tensor(name)[...], expected)
    assert sum(counted) == sum(entry.size_bytes for entry in signed.manifest.tensors)
    assert checkpoint.file("config.json") == (folder / "config.json").read_bytes()


def test_a_flipped_byte_is_refused(folder: Path, signed: SignedManifest) -> None:
    entry = next(entry for entry in signed.manifest.tensors if entry.size_bytes)
    path = folder / entry.file
    data = bytearray(path.read_bytes())
    data[entry.begin] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=rf"tensor {entry.name} of .* differs from the manifest"):
        VerifiedCheckpoint(open_source(str(folder)), signed).tensor(entry.name)[...]


def test_what_a_folder_does_not_have_is_a_typed_error(folder: Path, signed: SignedManifest) -> None:
    source, memory = PlacingFolder(folder), memoryview(bytearray(8))
    for file, begin, says in (
        ("missing.safetensors", 0, "is missing"),
        ("config.json", 10**6, "ends before"),
        ("../config.json", 0, "no path inside"),
        ("config.json", -1, "no range"),
    ):
        with pytest.raises(WeightsError, match=says):
            source.read_into(file, begin, memory)
    entry = signed.manifest.tensors[0]
    (folder / entry.file).unlink()
    with pytest.raises(WeightsError, match=rf"tensor {entry.name} .* can't be read: .* is missing"):
        VerifiedCheckpoint(source, signed).tensor(entry.name)[...]


def test_a_chunk_of_another_size_is_not_read_in_place(tmp_path: Path) -> None:
    cache, chunk = ChunkCache(tmp_path, 2**20), Hashed(b"0123456789")
    cache.put(chunk)
    memory = bytearray(10)
    assert cache.read_into(chunk.sha256, memoryview(memory))
    assert memory == b"0123456789"
    for size in (0, 9, 11):
        assert not cache.read_into(chunk.sha256, memoryview(bytearray(size)))
    assert not cache.read_into("0" * 64, memoryview(memory))
