"""A checkpoint whose chunks come from this machine's cache, from other nodes, or from its own source."""

import asyncio
from concurrent.futures import Future

from osai.core.errors import WeightsError
from osai.node.weights.cache import ChunkCache
from osai.node.weights.chunk_table import ChunkTable
from osai.node.weights.fetcher import Fetcher
from osai.node.weights.source import CheckpointSource, check_range

WAIT_S = 900.0  # for a chunk: it is given up much earlier where there is no hope for it


class SpreadSource:
    """See CheckpointSource, PlacingSource and SecondSource. Read it by whole chunks, and not on the loop.

    Args:
        table: of the manifest.
        cache: None where there is none.
        fetcher: gets what is not there; it runs on the loop that this is made on.
        origin: the source that it goes back to; None where there is none.
    """

    def __init__(
        self, table: ChunkTable, cache: ChunkCache | None, fetcher: Fetcher, origin: CheckpointSource | None
    ) -> None:
        self._table = table
        self._cache = cache
        self._fetcher = fetcher
        self._origin = origin
        self._loop = asyncio.get_running_loop()

    def read(self, file: str, begin: int, end: int) -> bytearray:
        """See CheckpointSource. What comes out of the cache is not verified here."""
        number = self._number(file, begin, end)
        data = self._cache.read(self._table.chunks[number].sha256) if self._cache is not None else None
        return data if data is not None and len(data) == end - begin else self._wait(number)

    def read_into(self, file: str, begin: int, memory: memoryview) -> None:
        """See PlacingSource."""
        number = self._number(file, begin, begin + len(memory))
        if self._cache is None or not self._cache.read_into(self._table.chunks[number].sha256, memory):
            memory[:] = self._wait(number)

    def read_again(self, file: str, begin: int, end: int) -> bytearray:
        """See SecondSource: what is in the cache is dropped."""
        number = self._number(file, begin, end)
        if self._cache is not None:
            self._cache.drop(self._table.chunks[number].sha256)
        return self._wait(number)

    def size(self, file: str) -> int:
        """See CheckpointSource: as far as the manifest tells."""
        ends = [chunk.end for chunk in self._table.chunks if chunk.file == file]
        if not ends:
            raise WeightsError(f"the manifest lists nothing of {file}", subject=file)
        return max(ends)

    def list_files(self) -> frozenset[str]:
        """See CheckpointSource: those that the manifest knows."""
        return frozenset(chunk.file for chunk in self._table.chunks)

    def describe(self) -> str:
        """See CheckpointSource."""
        return f"the swarm and {self._origin.describe()}" if self._origin is not None else "the swarm"

    def _number(self, file: str, begin: int, end: int) -> int:
        check_range(file, begin, end)
        number = self._table.at(file, begin, end)
        if number is None:
            raise WeightsError(f"bytes [{begin}, {end}) of {file} are no chunk of the manifest", subject=file)
        return number

    def _wait(self, number: int) -> bytearray:
        waiter: Future[bytearray] = Future()
        self._loop.call_soon_threadsafe(self._fetcher.demand, number, waiter)
        try:
            return waiter.result(WAIT_S)
        except TimeoutError as e:
            chunk = self._table.chunks[number]
            raise WeightsError(
                f"bytes [{chunk.begin}, {chunk.end}) did not come within {WAIT_S:.0f} s: is the network that slow? "
                "Name a folder with --weights",
                subject=chunk.file,
            ) from e
