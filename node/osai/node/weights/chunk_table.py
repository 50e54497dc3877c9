"""The chunks of a manifest, numbered, as nodes that speak of it name them. Pure."""

from collections.abc import Iterable

from osai.core.manifest import Chunk, Manifest, SignedManifest
from osai.node.weights import bits


class ChunkTable:
    """A manifest's distinct chunks, in the order in which their digests first appear.

    Attributes:
        manifest_digest: of the manifest.
        chunks: a place of each.
    """

    def __init__(self, signed: SignedManifest) -> None:
        self.manifest_digest = signed.digest
        self._manifest: Manifest = signed.manifest
        self.chunks: tuple[Chunk, ...] = tuple(signed.manifest.chunk_index().values())
        self._numbers = {chunk.sha256: i for i, chunk in enumerate(self.chunks)}
        self._places: dict[tuple[str, int, int], str] | None = None

    def __len__(self) -> int:
        return len(self.chunks)

    def number(self, sha256: str) -> int | None:
        """A chunk's number by its digest in hex; None where the manifest has no such chunk."""
        return self._numbers.get(sha256)

    def at(self, file: str, begin: int, end: int) -> int | None:
        """The number of the chunk of exactly these bytes of a file; None where the manifest has none."""
        if self._places is None:
            self._places = {(c.file, c.begin, c.end): c.sha256 for c in self._manifest.chunks()}
        digest = self._places.get((file, begin, end))
        return None if digest is None else self._numbers[digest]

    def of_tensors(self, names: Iterable[str]) -> int:
        """The set of the chunks of these tensors."""
        wanted = frozenset(names)
        entries = [entry for entry in self._manifest.tensors if entry.name in wanted]
        return bits.of(self._numbers[digest] for entry in entries for digest in entry.chunks)

    def of_files(self, names: Iterable[str]) -> int:
        """The set of the chunks of these files; those that the manifest has not count for nothing."""
        wanted = frozenset(names)
        return bits.of(self._numbers[chunk.sha256] for chunk in self._manifest.chunks() if chunk.file in wanted)

    def of_digests(self, digests: Iterable[str]) -> int:
        """The set of those of these digests that are the manifest's."""
        return bits.of(number for digest in digests if (number := self._numbers.get(digest)) is not None)

    def num_bytes(self, chosen: int) -> int:
        """Bytes of a set of chunks."""
        return sum(self.chunks[number].size_bytes for number in bits.members(chosen))
