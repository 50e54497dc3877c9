"""Entries cut into chunks: exactly their bytes, from their own beginning, each byte under one digest."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest.publishers import signed_by, verify_at
from osai.client.signing import build_manifest, verify_folder
from osai.core.errors import ManifestError, WeightsError
from osai.core.identity import Identity
from osai.core.manifest import (
    DEFAULT_CHUNK_BYTES,
    Chunk,
    FileEntry,
    Manifest,
    TrustPolicy,
    check,
    choose_chunk_bytes,
    chunk_digests,
    num_chunks,
    parse,
    refuse_unaccepted,
    sign,
    unsigned,
)
from osai.core.manifest.chunks import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES, ranges

KIB, MIB, GIB = 2**10, 2**20, 2**30


@given(st.integers(0, 10**6), st.integers(0, 10**9), st.sampled_from([2**power for power in range(16, 27)]))
def test_ranges_cover_an_entry_without_holes(size: int, begin: int, chunk_bytes: int) -> None:
    cut = list(ranges(begin, begin + size, chunk_bytes))
    assert len(cut) == num_chunks(size, chunk_bytes)
    assert [first for first, _ in cut] == [begin, *(last for _, last in cut[:-1])][: len(cut)]
    assert all(last - first == chunk_bytes for first, last in cut[:-1])
    assert not size or (cut[-1][1] == begin + size and 0 < cut[-1][1] - cut[-1][0] <= chunk_bytes)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_digests_are_of_the_pieces(data: bytes, chunk_bytes: int) -> None:
    pieces = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    assert chunk_digests(data, chunk_bytes) == tuple(hashlib.sha256(piece).hexdigest() for piece in pieces)


@pytest.mark.parametrize(
    ("sizes", "chunk_bytes"),
    [
        ([], 4 * MIB),
        ([1] * 50_000, 4 * MIB),
        ([100_000 * 4 * MIB], 4 * MIB),
        ([100_000 * 4 * MIB + 1], 8 * MIB),
        ([200 * GIB, 300 * GIB], 8 * MIB),
        ([1400 * GIB], 16 * MIB),
        ([10_000 * GIB], 64 * MIB),  # over 100,000 of the largest too
        ([1] * 200_000, 64 * MIB),
    ],
)
def test_a_maker_takes_the_smallest_size_that_leaves_few_chunks(sizes: list[int], chunk_bytes: int) -> None:
    assert choose_chunk_bytes(sizes) == chunk_bytes
    assert DEFAULT_CHUNK_BYTES == 4 * MIB


def test_chunks_tell_where_they_lie(manifest: Manifest) -> None:
    digests = tuple(f"{i:064x}" for i in range(4))
    file = FileEntry(path="tokenizer.json", size_bytes=MIN_CHUNK_BYTES + 1, chunks=digests[:2])
    tensor = replace(
        manifest.tensors[0], begin=100, end=100 + 3 * MIN_CHUNK_BYTES, shape=(MIN_CHUNK_BYTES * 3 // 2,),
        chunks=(digests[2], digests[3], digests[2]),
    )  # fmt: skip
    empty = replace(manifest.tensors[1], begin=7, end=7, shape=(0,), chunks=())
    cut = replace(manifest, files=(file,), tensors=(tensor, empty), chunk_bytes=MIN_CHUNK_BYTES)
    check(cut)
    where = [
        Chunk(sha256=digests[0], file="tokenizer.json", begin=0, end=65536),
        Chunk(sha256=digests[1], file="tokenizer.json", begin=65536, end=65537),
        Chunk(sha256=digests[2], file=tensor.file, begin=100, end=65636),
        Chunk(sha256=digests[3], file=tensor.file, begin=65636, end=131172),
        Chunk(sha256=digests[2], file=tensor.file, begin=131172, end=196708),
    ]
    assert list(cut.chunks()) == where
    assert cut.chunks_of(tensor) == tuple(where[2:])
    assert cut.chunks_of(empty) == ()
    assert cut.chunk_index() == {chunk.sha256: chunk for chunk in where[:4]}
    assert not cut.lacks_digests()
    assert sum(chunk.size_bytes for chunk in cut.chunks()) == cut.num_bytes()


def test_an_entry_without_digests_has_no_chunks_and_can_t_be_signed(manifest: Manifest, key: Identity) -> None:
    lacking = replace(manifest, files=(replace(manifest.files[0], chunks=()), *manifest.files[1:]))
    assert parse(unsigned(lacking)).manifest.lacks_digests()
    assert len(list(lacking.chunks())) == 4
    with pytest.raises(ManifestError, match="lacks digests"):
        sign(lacking, key)
    empty = replace(manifest, files=(FileEntry(path="vocab.txt", size_bytes=0, chunks=()),))
    assert not empty.lacks_digests()
    verify_at(signed_by(empty, key), TrustPolicy.of([key.public_key]))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A checkpoint of one file of 5 chunks and a bit, and a tokenizer of three."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("large")
    tensors = {"model.embed_tokens.weight": torch.arange(90_000), "model.norm.weight": torch.ones(3)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes(b"x" * (3 * MIN_CHUNK_BYTES))
    return folder, build_manifest(folder, "me/large", 1, "mit", chunk_bytes=MIN_CHUNK_BYTES)


def test_a_folder_s_chunks_are_of_its_bytes(large: tuple[Path, Manifest]) -> None:
    folder, manifest = large
    embedding = next(entry for entry in manifest.tensors if entry.name == "model.embed_tokens.weight")
    assert [len(entry.chunks) for entry in manifest.files] == [3]
    assert len(embedding.chunks) == num_chunks(720_000, MIN_CHUNK_BYTES) == 11
    for chunk in manifest.chunks():
        data = (folder / chunk.file).read_bytes()[chunk.begin : chunk.end]
        assert hashlib.sha256(data).hexdigest() == chunk.sha256
    assert build_manifest(folder, "me/large", 1, "mit").chunk_bytes == 4 * MIB


@given(st.data())
def test_one_byte_flipped_anywhere_in_a_folder_names_its_chunk(
    large: tuple[Path, Manifest], data: st.DataObject
) -> None:
    folder, manifest = large
    chunk = data.draw(st.sampled_from(list(manifest.chunks())))
    at = data.draw(st.integers(chunk.begin, chunk.end - 1))
    signed = parse(unsigned(manifest))
    path = folder / chunk.file
    before = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([before[at] ^ data.draw(st.integers(1, 255))]))
    try:
        with pytest.raises(WeightsError, match=rf"differs from the manifest in bytes \[{chunk.begin}, {chunk.end}\)"):
            verify_folder(folder, signed)
    finally:
        path.write_bytes(before)


def test_a_folder_is_not_verified_by_a_manifest_without_digests(large: tuple[Path, Manifest]) -> None:
    folder, manifest = large
    lacking = replace(manifest, files=tuple(replace(file, chunks=()) for file in manifest.files))
    with pytest.raises(WeightsError, match=r"file tokenizer\.json has no digests"):
        verify_folder(folder, parse(unsigned(lacking)))


def test_sizes_of_chunks_are_bounded(manifest: Manifest) -> None:
    assert (MIN_CHUNK_BYTES, MAX_CHUNK_BYTES) == (64 * KIB, 64 * MIB)
    for chunk_bytes in (MIN_CHUNK_BYTES // 2, MAX_CHUNK_BYTES * 2, MIN_CHUNK_BYTES + 1, 0, -1):
        with pytest.raises(ManifestError, match="no power of two"):
            unsigned(replace(manifest, chunk_bytes=chunk_bytes))


def test_a_licence_that_must_be_accepted_is_accepted_by_its_exact_name(manifest: Manifest) -> None:
    refuse_unaccepted(manifest, frozenset())
    strict = replace(manifest, licence="llama4", licence_must_accept=True)
    refuse_unaccepted(strict, frozenset({"other", "llama4"}))
    for accepted in ((), ("Llama4",), ("llama",), ("llama4 ",)):
        with pytest.raises(ManifestError, match="Read it, then start the node with --accept-licence 'llama4'"):
            refuse_unaccepted(strict, frozenset(accepted))
    with pytest.raises(ManifestError, match=r"Read it at https://example\.org/l, then"):
        refuse_unaccepted(replace(strict, licence_url="https://example.org/l"), frozenset())
