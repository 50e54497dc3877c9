"""What this node gives to others: chunks of the manifests that it serves or loads, and nothing else. Without torch."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from osai.core.errors import WeightsError
from osai.core.manifest import Chunk
from osai.node.weights import bits
from osai.node.weights.cache import ChunkCache, Hashed
from osai.node.weights.chunk_plan import ChunkPlan
from osai.node.weights.chunk_table import ChunkTable
from osai.node.weights.source import LocalFolder

log = logging.getLogger(__name__)

LOOK_S = 10.0  # other processes may remove from the cache, and add to it


@dataclass(slots=True, kw_only=True)
class Offer:
    """One manifest's chunks, as this node has them. All of it changes on the loop alone.

    Attributes:
        folder: where they lie; None for the cache.
        held: set of those that are there, as far as is known.
        arriving: set of those that have come, and are being written.
        plan: of the load that goes on.
        seeks: whether that load keeps what it fetches, so that others may wait for it.
        on_asked: told the id of each node that asks what is here.
        gives: whether others may have any: not where a licence must be accepted first, and anybody may ask.
    """

    table: ChunkTable
    folder: LocalFolder | None
    held: int = 0
    arriving: int = 0
    plan: ChunkPlan | None = None
    seeks: bool = False
    on_asked: Callable[[str], None] | None = None
    gives: bool = True
    looked_s: float = 0.0

    @property
    def sought(self) -> int:
        """Set of those that it will hold."""
        return (self.plan.sought | self.arriving) & ~self.held if self.plan is not None and self.seeks else 0

    @property
    def fetching(self) -> int:
        """Of these, those that come from outside of the swarm, or have come."""
        return (self.plan.fetching | self.arriving) & self.sought if self.plan is not None else 0

    def written(self, number: int, *, kept: bool) -> None:
        """A chunk that was arriving is in the cache, or could not be kept."""
        self.arriving &= ~(1 << number)
        self.held |= int(kept) << number

    def lost(self, number: int) -> None:
        """A chunk is gone, or damaged."""
        self.held &= ~(1 << number)


class Stock:
    """The offers, by manifest.

    Args:
        cache: None where there is none.
        clock_s: seconds of a steady clock.
    """

    def __init__(self, cache: ChunkCache | None, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.cache = cache
        self._clock_s = clock_s
        self._offers: dict[bytes, Offer] = {}

    def add(self, offer: Offer) -> None:
        """Give out a manifest's chunks from now on."""
        self._offers[offer.table.manifest_digest] = offer

    def remove(self, manifest_digest: bytes) -> None:
        """No more."""
        self._offers.pop(manifest_digest, None)

    def offer(self, manifest_digest: bytes) -> Offer:
        """What is given out of a manifest.

        Raises:
            WeightsError: if nothing is.
        """
        offer = self._offers.get(manifest_digest)
        if offer is None or not offer.gives:
            raise WeightsError("this node gives no weights of that manifest: ask another one")
        return offer

    def is_due(self, offer: Offer) -> bool:
        """Whether the cache is to be looked at again."""
        return offer.folder is None and self._clock_s() - offer.looked_s >= LOOK_S

    def looked(self, offer: Offer, held: int) -> None:
        """The cache has been looked at."""
        offer.held, offer.looked_s = held, self._clock_s()

    def look(self, offer: Offer) -> int:
        """The set of an offer's chunks that are there now. It reads the disk: for a thread."""
        if offer.folder is not None:
            return _held_in(offer.folder, offer.table.chunks)
        return offer.table.of_digests(one.sha256 for one in self.cache.kept()) if self.cache is not None else 0

    def find(self, sha256: str) -> tuple[Offer, int]:
        """Where a chunk is to be had.

        Raises:
            WeightsError: if it is not.
        """
        for offer in self._offers.values():
            number = offer.table.number(sha256) if offer.gives else None
            if number is not None and offer.held >> number & 1:
                return offer, number
        raise WeightsError("this node does not have that chunk: ask another one")

    def read(self, offer: Offer, number: int) -> bytes | None:
        """A chunk, verified; None where it is gone or damaged. It reads the disk: for a thread."""
        chunk = offer.table.chunks[number]
        data = self._read(offer, chunk)
        if data is not None and Hashed(data).sha256 == chunk.sha256:
            return bytes(data)
        if data is not None:
            log.warning(
                "bytes [%d, %d) of %s are damaged here, and given to nobody", chunk.begin, chunk.end, chunk.file
            )
        if self.cache is not None and offer.folder is None:
            self.cache.drop(chunk.sha256)
        return None

    def _read(self, offer: Offer, chunk: Chunk) -> bytearray | None:
        if offer.folder is None:
            return self.cache.read(chunk.sha256) if self.cache is not None else None
        try:
            return offer.folder.read(chunk.file, chunk.begin, chunk.end)
        except WeightsError as e:
            log.info("a chunk can't be given to a peer: %s", e)
            return None


def _held_in(folder: LocalFolder, chunks: tuple[Chunk, ...]) -> int:
    """The set of the chunks for which a folder has long enough files."""
    sizes: dict[str, int] = {}
    for file in {chunk.file for chunk in chunks}:
        try:
            sizes[file] = folder.size(file)
        except WeightsError:
            sizes[file] = 0
    return bits.of(i for i, chunk in enumerate(chunks) if chunk.end <= sizes[chunk.file])
