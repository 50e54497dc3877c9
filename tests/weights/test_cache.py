"""The cache on disk: what is kept, what is found again, what goes first, and several processes at once."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.core.errors import SetupError
from osai.node.weights import cache as cache_module
from osai.node.weights.cache import ChunkCache, Hashed, open_cache
from osai.node.weights.eviction import Kept, choose_evictions

MIB = 2**20


def put(cache: ChunkCache, data: bytes) -> str:
    chunk = Hashed(data)
    assert cache.put(chunk)
    return chunk.sha256


def age(cache: ChunkCache, sha256: str, seconds: float) -> None:
    path = cache.folder / sha256[:2] / sha256
    at_s = path.stat().st_mtime - seconds
    os.utime(path, (at_s, at_s))


def test_a_chunk_lies_under_the_digest_of_its_bytes(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "chunks", MIB)
    sha256 = put(cache, b"some bytes")
    assert sha256 == hashlib.sha256(b"some bytes").hexdigest()
    assert sha256 in cache
    assert bytes(cache.read(sha256) or b"") == b"some bytes"
    assert (tmp_path / "chunks" / sha256[:2] / sha256).read_bytes() == b"some bytes"
    cache.drop(sha256)
    assert sha256 not in cache
    assert cache.read(sha256) is None
    cache.drop(sha256)  # no error


def test_nothing_is_made_before_the_first_chunk(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "chunks")
    assert cache.read("0" * 64) is None
    assert list(cache.kept()) == []
    assert cache.max_bytes > 0
    assert not (tmp_path / "chunks").exists()


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 10_000)
    first, second, third = (put(cache, bytes([i]) * 3000) for i in range(3))
    for i, sha256 in enumerate((first, second, third)):
        age(cache, sha256, 1000 - i)
    assert cache.read(first) is not None  # used again
    fourth = put(cache, b"4" * 3000)
    assert {one.sha256 for one in cache.kept()} == {first, third, fourth}


def test_pruning_leaves_no_more_than_was_said(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, MIB)
    kept = [put(cache, bytes([i]) * 1000) for i in range(10)]
    for i, sha256 in enumerate(kept):
        age(cache, sha256, 100 - i)
    assert {one.sha256 for one in cache.prune(4500)} == set(kept[:6])
    assert cache.prune(0)
    assert list(cache.kept()) == []


def test_a_disk_that_takes_nothing_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ChunkCache(tmp_path / "file" / "chunks", MIB)
    assert not cache.put(Hashed(b"data"))
    assert "is not kept" in caplog.text


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SetupError, match="--cache"):
        open_cache(tmp_path / "file", MIB)
    assert open_cache(None, MIB) is None


def test_what_a_process_left_that_died_is_removed_later(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, MIB)
    sha256 = put(cache, b"data")
    old, new = (tmp_path / sha256[:2] / f".{sha256}.{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    long_ago_s = time.time() - 2 * cache_module.LEFT_OVER_S
    os.utime(old, (long_ago_s, long_ago_s))
    assert [one.sha256 for one in cache.kept()] == [sha256]
    assert not old.exists()
    assert new.exists()


def test_many_threads_write_and_read_the_same_chunks(tmp_path: Path) -> None:
    cache, wrong = ChunkCache(tmp_path, 100 * MIB), []
    chunks = [bytes([i]) * 50_000 for i in range(8)]

    def work() -> None:
        for data in chunks * 3:
            sha256 = put(cache, data)
            found = cache.read(sha256)
            if found is not None and bytes(found) != data:
                wrong.append(sha256)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(cache.kept())) == 8


WRITER = """
import sys
from pathlib import Path
from osai.node.weights.cache import ChunkCache, Hashed
cache = ChunkCache(Path(sys.argv[1]), 600_000)
for i in range(60):
    data = f"{sys.argv[2]} {i} ".encode() * 1000
    cache.put(Hashed(data))
    found = cache.read(Hashed(data).sha256)
    assert found is None or bytes(found) == data
"""


def test_several_processes_keep_to_the_size_together(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    cache = ChunkCache(tmp_path, 600_000)
    kept = list(cache.kept())
    assert 400_000 < sum(one.size_bytes for one in kept) <= 600_000
    assert all(hashlib.sha256(cache.read(one.sha256) or b"").hexdigest() == one.sha256 for one in kept)


kept_chunks = st.lists(
    st.builds(
        Kept,
        sha256=st.integers(0, 2**64).map(lambda number: f"{number:064x}"),
        size_bytes=st.integers(0, 1000),
        used_s=st.floats(0, 100),
    ),
    unique_by=lambda one: one.sha256,
    max_size=30,
)


@given(kept_chunks, st.integers(0, 10_000))
def test_evictions_are_the_oldest_and_no_more_than_needed(kept: list[Kept], max_bytes: int) -> None:
    gone = choose_evictions(kept, max_bytes)
    left = [one for one in kept if one not in gone]
    assert sum(one.size_bytes for one in left) <= max_bytes or not left
    assert all(old.used_s <= young.used_s for old in gone for young in left)
    if gone:
        assert sum(one.size_bytes for one in left) + gone[-1].size_bytes > max_bytes
    assert set(choose_evictions(reversed(kept), max_bytes)) == set(gone)  # whoever looks, in whatever order
