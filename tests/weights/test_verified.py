"""Only bytes that were verified become tensors, and no failure gets lost."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from osai.client.signing import build_manifest
from osai.core.errors import ManifestError, WeightsError
from osai.core.identity import Identity
from osai.core.manifest import SignedManifest, parse, sign, unsigned
from osai.node.weights.source import LocalFolder
from osai.node.weights.verified import VerifiedCheckpoint

SHARD = "model-00002-of-00002.safetensors"
LAYER_1 = "model.layers.1.mlp.up_proj.weight"


class Recorder(LocalFolder):
    """A folder that remembers what was read, and may give something else."""

    def __init__(self, folder: Path, change: Callable[[bytearray], bytearray | bytes] = lambda data: data) -> None:
        super().__init__(folder)
        self.reads: list[tuple[str, int, int]] = []
        self._change = change

    def read(self, file: str, begin: int, end: int) -> bytearray:
        self.reads.append((file, begin, end))
        return self._change(super().read(file, begin, end))  # type: ignore[return-value]


def flipped(data: bytearray) -> bytearray:
    if data:
        data[len(data) // 2] ^= 1
    return data


def test_tensors_are_what_the_library_reads(folder: Path, signed: SignedManifest) -> None:
    checkpoint = VerifiedCheckpoint(LocalFolder(folder), signed)
    expected = {name: t for shard in folder.glob("*.safetensors") for name, t in load_file(shard).items()}
    assert set(checkpoint.names) == expected.keys()
    for name, tensor in expected.items():
        lazy = checkpoint.tensor(name)
        assert (lazy.get_shape(), lazy[...].dtype) == (list(tensor.shape), tensor.dtype)
        assert torch.equal(lazy[...], tensor)
    assert checkpoint.tensor(LAYER_1).get_dtype() == "F16"
    assert torch.equal(checkpoint.tensor(LAYER_1)[3:5, 1], expected[LAYER_1][3:5, 1])
    checkpoint.raise_failure()


def test_every_dtype(tmp_path: Path) -> None:
    kinds = (torch.bool, torch.uint8, torch.int8, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu,
             torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.int32, torch.uint32, torch.float32,
             torch.int64, torch.uint64, torch.float64)  # fmt: skip
    tensors = {str(kind).removeprefix("torch."): torch.tensor([[0, 1, 2]]).to(kind) for kind in kinds}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(3, 0, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors")
    signed = parse(sign(build_manifest(tmp_path, "a", 1, "mit"), Identity.generate()))
    checkpoint = VerifiedCheckpoint(LocalFolder(tmp_path), signed)
    for name, tensor in tensors.items():
        read = checkpoint.tensor(name)[...]
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert read.flatten().view(torch.uint8).tolist() == tensor.flatten().view(torch.uint8).tolist()


def test_a_tensor_is_read_once_and_becomes_what_was_checked(folder: Path, signed: SignedManifest) -> None:
    given_out: list[bytearray] = []

    def keep(data: bytearray) -> bytearray:
        given_out.append(data)
        return data

    source = Recorder(folder, keep)
    tensor = VerifiedCheckpoint(source, signed).tensor(LAYER_1)[...]
    entry = next(entry for entry in signed.manifest.tensors if entry.name == LAYER_1)
    assert source.reads == [(SHARD, entry.begin, entry.end)]
    given_out[0][0:2] = b"\x00\x3c"  # float16 1.0: the tensor is this very memory, no copy and no second read
    assert tensor[0, 0] == 1.0


def test_a_source_may_give_plain_bytes(folder: Path, signed: SignedManifest, tensors: dict[str, torch.Tensor]) -> None:
    checkpoint = VerifiedCheckpoint(Recorder(folder, bytes), signed)
    read = checkpoint.tensor(LAYER_1)[...]
    assert torch.equal(read, tensors[LAYER_1])
    read += 1  # writable, as bytes are not


def test_a_flipped_byte_names_tensor_and_file(folder: Path, signed: SignedManifest) -> None:
    checkpoint = VerifiedCheckpoint(Recorder(folder, flipped), signed)
    with pytest.raises(WeightsError, match=f"tensor {LAYER_1} of {SHARD} in folder .* differs") as caught:
        checkpoint.tensor(LAYER_1)[...]
    assert caught.value.subject == LAYER_1
    with pytest.raises(WeightsError, match=LAYER_1):
        checkpoint.raise_failure()


def test_too_few_bytes_are_refused(folder: Path, signed: SignedManifest) -> None:
    checkpoint = VerifiedCheckpoint(Recorder(folder, lambda data: data[:-1]), signed)
    with pytest.raises(WeightsError, match="differs"):
        checkpoint.tensor(LAYER_1)[...]


def test_after_a_failure_nothing_more_is_read(folder: Path, signed: SignedManifest) -> None:
    source = Recorder(folder, flipped)
    checkpoint = VerifiedCheckpoint(source, signed)
    with pytest.raises(WeightsError):
        checkpoint.tensor(LAYER_1)[...]
    with pytest.raises(WeightsError, match=LAYER_1):
        checkpoint.tensor("model.norm.weight")[...]
    assert len(source.reads) == 1


def test_an_error_of_the_source_keeps_its_reason(folder: Path, signed: SignedManifest) -> None:
    (folder / SHARD).unlink()
    checkpoint = VerifiedCheckpoint(LocalFolder(folder), signed)
    with pytest.raises(WeightsError, match=f"tensor {LAYER_1} of {SHARD} can't be read: {SHARD} is missing"):
        checkpoint.tensor(LAYER_1)[...]


def test_files_are_verified(folder: Path, signed: SignedManifest) -> None:
    checkpoint = VerifiedCheckpoint(LocalFolder(folder), signed)
    assert checkpoint.files == ("additional_chat_templates/tools.jinja", "config.json", "tokenizer.json")
    assert checkpoint.file("config.json") == b'{"num_hidden_layers": 2}'
    (folder / "config.json").write_bytes(b'{"num_hidden_layers": 3}')
    with pytest.raises(WeightsError, match=r"file config\.json in folder .* differs"):
        checkpoint.file("config.json")
    with pytest.raises(WeightsError, match=r"lists no file README\.md"):
        checkpoint.file("README.md")
    with pytest.raises(WeightsError, match="lists no tensor nothing"):
        checkpoint.tensor("nothing")


def test_a_manifest_without_digests_is_refused_and_an_unsigned_one_still_verifies_bytes(
    folder: Path, signed: SignedManifest, tensors: dict[str, torch.Tensor]
) -> None:
    undigested = replace(signed.manifest, tensors=tuple(replace(t, chunks=()) for t in signed.manifest.tensors))
    with pytest.raises(ManifestError, match="lacks digests"):
        VerifiedCheckpoint(LocalFolder(folder), parse(unsigned(undigested)))
    bare = parse(unsigned(signed.manifest))
    assert torch.equal(VerifiedCheckpoint(LocalFolder(folder), bare).tensor(LAYER_1)[...], tensors[LAYER_1])
    with pytest.raises(WeightsError, match="differs"):
        VerifiedCheckpoint(Recorder(folder, flipped), bare).tensor(LAYER_1)[...]


def test_many_threads(folder: Path, signed: SignedManifest, tensors: dict[str, torch.Tensor]) -> None:
    lock, total = threading.Lock(), [0]

    def count(num_bytes: int) -> None:
        with lock:
            total[0] += num_bytes

    class Slow(LocalFolder):
        """Gives every thread the time to be in the middle of a read."""

        def read(self, file: str, begin: int, end: int) -> bytearray:
            time.sleep(0.001)
            return super().read(file, begin, end)

    checkpoint = VerifiedCheckpoint(Slow(folder), signed, count)
    names = [*checkpoint.names] * 20
    with ThreadPoolExecutor(4) as pool:
        for name, tensor in zip(names, pool.map(lambda name: checkpoint.tensor(name)[...], names), strict=True):
            assert torch.equal(tensor, tensors[name])
    assert total[0] == 20 * sum(entry.size_bytes for entry in signed.manifest.tensors)
