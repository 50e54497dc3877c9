"""`osai-node cache`, and the options of `osai-node join` that are about it."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from osai.node.cache_cli import cache_options
from osai.node.cli import main
from osai.node.weights.cache import DEFAULT_FOLDER, ChunkCache, Hashed


@pytest.fixture
def cache(tmp_path: Path) -> ChunkCache:
    it = ChunkCache(tmp_path, 2**20)
    for i in range(4):
        it.put(Hashed(bytes([i]) * 1000))
    return it


def run(cache: ChunkCache, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["cache", *arguments, "--cache", str(cache.folder)])
    return done.exit_code, done.output


def test_chunks_are_listed(cache: ChunkCache) -> None:
    status, output = run(cache, "ls")
    assert status == 0
    assert output.endswith("4 chunks, 0.0 MiB\n")
    assert all(f"{one.sha256}        1000  " in output for one in cache.kept())


def test_damaged_chunks_are_found_and_removed(cache: ChunkCache) -> None:
    assert run(cache, "verify") == (0, "4 chunks, 0.0 MiB\n")
    victim = next(iter(cache.kept())).sha256
    (cache.folder / victim[:2] / victim).write_bytes(b"x" * 1000)
    status, output = run(cache, "verify")
    assert status == 1
    assert f"{victim} is damaged; removed" in output
    assert "error: 1 chunks were damaged" in output
    assert run(cache, "verify") == (0, "3 chunks, 0.0 MiB\n")


def test_a_cache_is_pruned_to_a_size(cache: ChunkCache) -> None:
    assert run(cache, "prune", "--size", "2500") == (0, "removed 2 chunks, 0.0 MiB\n")
    assert run(cache, "prune") == (0, "removed 2 chunks, 0.0 MiB\n")
    assert run(cache, "ls") == (0, "0 chunks, 0.0 MiB\n")
    assert run(cache, "prune", "--size", "much")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (DEFAULT_FOLDER.expanduser(), None)),
        (["--cache", "/a/b", "--cache-size", "50GiB"], (Path("/a/b"), 50 * 2**30)),
        (["--no-cache"], (None, None)),
        (["--cache", "/a/b", "--no-cache"], (None, None)),
    ],
)
def test_a_node_is_told_of_its_cache(arguments: list[str], expected: tuple[Path | None, int | None]) -> None:
    found: list[tuple[Path | None, int | None]] = []

    @click.command()
    @cache_options
    def command(cache_dir: Path | None, cache_bytes: int | None) -> None:
        found.append((cache_dir, cache_bytes))

    assert CliRunner().invoke(command, arguments).exit_code == 0
    assert found == [expected]
