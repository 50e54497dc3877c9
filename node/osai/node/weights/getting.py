"""The ways to a chunk: this machine's cache, a peer, the source. What they bring is hashed, and not yet judged."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from osai.core.errors import WeightsError
from osai.core.manifest import Chunk
from osai.core.member_tls import MemberTls
from osai.node.weights.blames import Fault
from osai.node.weights.cache import ChunkCache, Hashed
from osai.node.weights.peer_chunks import PeerChunks, PeerFaultError
from osai.node.weights.source import CheckpointSource

NUM_SOURCE_THREADS = 4  # as many as a plan reads at a time


class Getting:
    """Of one load. Close it.

    Args:
        cache: None where nothing is kept.
        source: read from threads; None where there is none.
        tls: of this node; None in a public swarm.

    Attributes:
        peers: those that are known, by id.
    """

    def __init__(self, cache: ChunkCache | None, source: CheckpointSource | None, tls: MemberTls | None) -> None:
        self._cache = cache
        self._source = source
        self._tls = tls
        self._threads = ThreadPoolExecutor(NUM_SOURCE_THREADS, thread_name_prefix="source")
        self.peers: dict[str, PeerChunks] = {}

    def add(self, peer: str, address: str) -> None:
        """Dial one more peer, when it is first asked."""
        self.peers[peer] = PeerChunks(peer, address, self._tls)

    async def in_cache(self, chunk: Chunk) -> Hashed | None:
        """A chunk that another process has put there; None where there is none, or it is damaged."""
        if self._cache is None or chunk.sha256 not in self._cache:
            return None
        data = await asyncio.to_thread(self._cache.read, chunk.sha256)
        hashed = await asyncio.to_thread(Hashed, data or b"")
        return hashed if hashed.sha256 == chunk.sha256 else None

    async def from_peer(self, peer: str, chunk: Chunk) -> Hashed:
        """As many bytes as the chunk has, of a peer.

        Raises:
            PeerFaultError: if they do not come.
        """
        known = self.peers.get(peer)
        if known is None:
            raise PeerFaultError(Fault.GONE, f"{peer} has left")
        return await asyncio.to_thread(Hashed, await known.fetch(chunk))

    async def from_source(self, chunk: Chunk) -> Hashed:
        """As many bytes as the chunk has, of the source.

        Raises:
            WeightsError: if it does not give them.
        """
        source = self._source
        if source is None:
            raise WeightsError("there is no source")
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._threads, source.read, chunk.file, chunk.begin, chunk.end)
        if len(data) != chunk.size_bytes:
            raise WeightsError(f"{source.describe()} gave {len(data)} bytes where {chunk.size_bytes} were due")
        return await asyncio.to_thread(Hashed, data)

    async def close(self) -> None:
        """End every connection. A read of the source that has begun ends by its own deadline."""
        for peer in self.peers.values():
            await peer.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
