"""What a manifest says, as data. docs/manifest.md is the specification; the M numbers are its clauses."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from osai.core.manifest.chunks import DEFAULT_CHUNK_BYTES, Chunk, ranges
from osai.core.manifest.names import is_text

FORMAT = 2
MANIFEST_FILE = "osai-manifest.json"  # where a checkpoint's folder keeps it


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file that serving needs beside the weights; `chunks` as a tensor's."""

    path: str
    size_bytes: int
    chunks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A tensor: bytes [begin, end) of a safetensors file.

    Attributes:
        name: as the checkpoint names it.
        file: path of its safetensors file.
        begin, end: byte offsets from the start of the file.
        dtype: as safetensors names it, `BF16`.
        layer: its decoder layer; None for every other tensor.
        chunks: hex SHA-256 of each chunk of its bytes; none where nobody has read them (never in a signed manifest).
    """

    name: str
    file: str
    begin: int
    end: int
    dtype: str
    shape: tuple[int, ...]
    layer: int | None
    chunks: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The publisher's statement of a model.

    Attributes:
        format: version of this layout.
        version: rises with every statement about the same model id.
        created_s: seconds since 1970.
        not_after_s: seconds since 1970 after which it is believed no more; None: it does not expire.
        licence: as the publisher names it, an SPDX identifier where there is one.
        licence_url: where its words are; may be empty.
        licence_must_accept: whether a node's operator must have accepted the licence by name before hosting.
        chunk_bytes: size of every entry's chunks but its last.
    """

    model_id: str
    version: int
    created_s: int
    licence: str
    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]
    not_after_s: int | None = None
    licence_url: str = ""
    licence_must_accept: bool = False
    chunk_bytes: int = DEFAULT_CHUNK_BYTES
    format: int = FORMAT

    @property
    def entries(self) -> tuple[FileEntry | TensorEntry, ...]:
        """Every file, then every tensor, in the manifest's order."""
        return (*self.files, *self.tensors)

    def chunks_of(self, entry: FileEntry | TensorEntry) -> tuple[Chunk, ...]:
        """One of its entries in chunks, in order; none where the entry has no digests or no bytes."""
        if isinstance(entry, FileEntry):
            file, begin, end = entry.path, 0, entry.size_bytes
        else:
            file, begin, end = entry.file, entry.begin, entry.end
        cut = zip(entry.chunks, ranges(begin, end, self.chunk_bytes), strict=False)
        return tuple(Chunk(sha256=digest, file=file, begin=first, end=last) for digest, (first, last) in cut)

    def chunks(self) -> Iterator[Chunk]:
        """Every chunk, entry by entry."""
        for entry in self.entries:
            yield from self.chunks_of(entry)

    def chunk_index(self) -> dict[str, Chunk]:
        """A place of each chunk by its digest, the first where the same bytes lie in several."""
        index: dict[str, Chunk] = {}
        for chunk in self.chunks():
            index.setdefault(chunk.sha256, chunk)
        return index

    def layer_bytes(self) -> tuple[int, ...]:
        """Bytes of each decoder layer that the names tell of.

        Layers of multi-token prediction that a checkpoint numbers on (DeepSeek V3's 61) are among them: cut the tuple
        at the config's number of layers.
        """
        sizes = [0] * (1 + max((t.layer for t in self.tensors if t.layer is not None), default=-1))
        for tensor in self.tensors:
            if tensor.layer is not None:
                sizes[tensor.layer] += tensor.size_bytes
        return tuple(sizes)

    def outer_bytes(self) -> int:
        """Bytes of the text model outside its layers: embedding, final norm, head."""
        return sum(t.size_bytes for t in self.tensors if t.layer is None and is_text(t.name))

    def num_bytes(self) -> int:
        """Bytes that the manifest vouches for: every file and tensor."""
        return sum(file.size_bytes for file in self.files) + sum(tensor.size_bytes for tensor in self.tensors)

    def lacks_digests(self) -> bool:
        """Whether any entry that has bytes has no digest."""
        return any(entry.size_bytes and not entry.chunks for entry in self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """An Ed25519 signature; both fields raw, 32 and 64 bytes."""

    public_key: bytes
    sig: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedManifest:
    """A parsed manifest file. Parsed is not verified: see `verify`.

    Attributes:
        signed_part: the canonical bytes of `manifest`, which the signatures cover.
        signatures: none where the manifest is unsigned.
        digest: SHA-256 of the signed part: every stage of a pipeline must have loaded the same.
    """

    manifest: Manifest
    signed_part: bytes
    signatures: tuple[Signature, ...]
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.signed_part).digest())  # once: it takes milliseconds
