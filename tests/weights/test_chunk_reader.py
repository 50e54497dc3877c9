"""Tensors of many chunks: read ahead, each byte hashed where it lies, and refused by tensor and chunk."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from osai.client.signing import build_manifest
from osai.core.errors import WeightsError
from osai.core.manifest import SignedManifest, TensorEntry, parse, unsigned
from osai.node.weights.chunk_reader import NUM_THREADS
from osai.node.weights.source import LocalFolder
from osai.node.weights.verified import VerifiedCheckpoint

CHUNK = 64 * 2**10
NAME = "model.layers.0.mlp.up_proj.weight"
TENSOR = torch.arange(5 * CHUNK // 4 + 3, dtype=torch.float32)  # five chunks, and 12 bytes


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SignedManifest]:
    folder = tmp_path_factory.mktemp("large")
    save_file({NAME: TENSOR, "model.norm.weight": torch.ones(3)}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes(bytes(range(256)) * 700)
    return folder, parse(unsigned(build_manifest(folder, "me/large", 1, "mit", chunk_bytes=CHUNK)))


def entry_of(signed: SignedManifest) -> TensorEntry:
    return next(entry for entry in signed.manifest.tensors if entry.name == NAME)


class Changing(LocalFolder):
    """A folder that may give something else than it holds, and remembers what it was asked for."""

    def __init__(self, folder: Path, change: Callable[[int, bytearray], bytearray | bytes]) -> None:
        super().__init__(folder)
        self._change = change
        self.reads: list[tuple[int, int]] = []

    def read(self, file: str, begin: int, end: int) -> bytearray:
        self.reads.append((begin, end))
        return self._change(begin, super().read(file, begin, end))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [bytearray, bytes])
def test_a_tensor_is_its_chunks_in_place(
    large: tuple[Path, SignedManifest], kind: Callable[[bytearray], bytearray | bytes]
) -> None:
    folder, signed = large
    counted: list[int] = []
    source = Changing(folder, lambda _, data: kind(data))
    checkpoint = VerifiedCheckpoint(source, signed, counted.append)
    read = checkpoint.tensor(NAME)[...]
    assert torch.equal(read, TENSOR)
    assert sorted(source.reads) == [(c.begin, c.end) for c in signed.manifest.chunks_of(entry_of(signed))]
    assert sorted(counted, reverse=True) == [CHUNK] * 5 + [12]
    read += 1  # writable
    assert checkpoint.file("tokenizer.json") == bytes(range(256)) * 700


@given(st.data())
def test_one_byte_flipped_anywhere_is_refused_by_tensor_and_chunk(
    large: tuple[Path, SignedManifest], data: st.DataObject
) -> None:
    folder, signed = large
    chunk = data.draw(st.sampled_from(signed.manifest.chunks_of(entry_of(signed))))
    at, mask = data.draw(st.integers(0, chunk.size_bytes - 1)), data.draw(st.integers(1, 255))

    def flip(begin: int, given: bytearray) -> bytearray:
        if begin == chunk.begin:
            given[at] ^= mask
        return given

    checkpoint = VerifiedCheckpoint(Changing(folder, flip), signed)
    says = rf"tensor {NAME} of model\.safetensors in folder .* differs .* in bytes \[{chunk.begin}, {chunk.end}\)"
    with pytest.raises(WeightsError, match=says) as caught:
        checkpoint.tensor(NAME)[...]
    assert caught.value.subject == NAME
    with pytest.raises(WeightsError, match=says):
        checkpoint.raise_failure()


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda _: b""])
def test_a_chunk_of_another_length_is_refused(
    large: tuple[Path, SignedManifest], change: Callable[[bytearray], bytearray]
) -> None:
    folder, signed = large
    second = signed.manifest.chunks_of(entry_of(signed))[1]
    source = Changing(folder, lambda begin, data: change(data) if begin == second.begin else data)
    with pytest.raises(WeightsError, match=rf"differs .* in bytes \[{second.begin}, {second.end}\)"):
        VerifiedCheckpoint(source, signed).tensor(NAME)[...]


def test_chunks_in_another_order_are_refused(large: tuple[Path, SignedManifest]) -> None:
    folder, signed = large
    entry = entry_of(signed)
    swapped = replace(entry, chunks=(entry.chunks[1], entry.chunks[0], *entry.chunks[2:]))
    tensors = tuple(swapped if each == entry else each for each in signed.manifest.tensors)
    other = parse(unsigned(replace(signed.manifest, tensors=tensors)))
    with pytest.raises(WeightsError, match=rf"in bytes \[{entry.begin}, {entry.begin + CHUNK}\)"):
        VerifiedCheckpoint(LocalFolder(folder), other).tensor(NAME)[...]


def test_what_a_source_changes_afterwards_does_not_reach_the_tensor(large: tuple[Path, SignedManifest]) -> None:
    folder, signed = large
    given_out: list[bytearray] = []

    def keep(_: int, data: bytearray) -> bytearray:
        given_out.append(data)
        return data

    tensor = VerifiedCheckpoint(Changing(folder, keep), signed).tensor(NAME)[...]
    for data in given_out:
        data[:] = bytes(len(data))
    assert torch.equal(tensor, TENSOR)


def test_the_next_chunk_is_read_while_one_is_under_way(large: tuple[Path, SignedManifest]) -> None:
    """The first chunk is given out only once the second one is asked for: it would not end one by one."""
    folder, signed = large
    first, second = signed.manifest.chunks_of(entry_of(signed))[:2]
    asked = threading.Event()

    def meet(begin: int, data: bytearray) -> bytearray:
        if begin == second.begin:
            asked.set()
        if begin == first.begin and not asked.wait(10):
            raise WeightsError("the second chunk was not asked for")
        return data

    assert torch.equal(VerifiedCheckpoint(Changing(folder, meet), signed).tensor(NAME)[...], TENSOR)


def test_after_a_difference_no_further_read_begins(large: tuple[Path, SignedManifest]) -> None:
    folder, signed = large
    source = Changing(folder, lambda _, data: bytes(len(data)))
    with pytest.raises(WeightsError, match="differs"):
        VerifiedCheckpoint(source, signed).tensor(NAME)[...]
    assert len(source.reads) <= 2 * NUM_THREADS  # those under way, and those that each thread may just have begun


def test_the_first_chunk_that_failed_is_named_and_its_threads_end(large: tuple[Path, SignedManifest]) -> None:
    folder, signed = large
    chunks = signed.manifest.chunks_of(entry_of(signed))

    def fail(begin: int, data: bytearray) -> bytearray:
        if begin == chunks[2].begin:
            raise WeightsError("the line broke")
        return data

    before = threading.active_count()
    with pytest.raises(WeightsError, match=rf"tensor {NAME} .* can't be read: the line broke"):
        VerifiedCheckpoint(Changing(folder, fail), signed).tensor(NAME)[...]
    assert threading.active_count() == before


def test_an_entry_that_claims_more_than_there_is_memory_is_a_typed_error(large: tuple[Path, SignedManifest]) -> None:
    folder, signed = large
    entry = entry_of(signed)
    numbers = 2**50  # 4 PiB, of which the digests take more than any manifest: made without parsing
    claimed = replace(entry, end=entry.begin + 4 * numbers, shape=(numbers,))
    huge = replace(signed, manifest=replace(signed.manifest, tensors=(claimed,)))
    with pytest.raises(WeightsError, match="do not fit in memory"):
        VerifiedCheckpoint(LocalFolder(folder), huge).tensor(NAME)[...]
