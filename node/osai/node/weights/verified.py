"""Tensors of a checkpoint, each checked against the manifest before anything sees it."""

import threading
from collections.abc import Callable
from types import EllipsisType, MappingProxyType
from typing import Any

import torch

from osai.core.errors import ManifestError, WeightsError
from osai.core.manifest import SignedManifest, TensorEntry
from osai.node.weights.chunk_reader import ChunkReader
from osai.node.weights.source import CheckpointSource

_DTYPES = MappingProxyType(
    {
        "BOOL": torch.bool,
        "U8": torch.uint8,
        "I8": torch.int8,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E8M0": torch.float8_e8m0fnu,
        "I16": torch.int16,
        "U16": torch.uint16,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I32": torch.int32,
        "U32": torch.uint32,
        "F32": torch.float32,
        "I64": torch.int64,
        "U64": torch.uint64,
        "F64": torch.float64,
    }
)


class VerifiedCheckpoint:
    """The files and tensors of a manifest, read from a source that nobody has to trust.

    Whether the manifest is to be believed is `osai.core.manifest.verify`'s matter and must be settled before. Bytes are
    read once, chunk by chunk, into memory of their own; the very bytes that were hashed become the tensor (M16 of
    docs/manifest.md). Safe to use from several threads at once.

    Args:
        source: where the bytes come from.
        signed: what they must be.
        on_bytes: told of a chunk's bytes once they are verified; called from the reading threads.

    Raises:
        ManifestError: if the manifest lacks a digest.
    """

    def __init__(
        self,
        source: CheckpointSource,
        signed: SignedManifest,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        if signed.manifest.lacks_digests():  # M17
            raise ManifestError(
                f"the manifest of {signed.manifest.model_id} lacks digests, so its weights can't be verified: "
                "make it anew with `osai manifest create`"
            )
        self._reader = ChunkReader(source, signed.manifest, on_bytes)
        self._files = {entry.path: entry for entry in signed.manifest.files}
        self._tensors = {entry.name: entry for entry in signed.manifest.tensors}
        self._lock = threading.Lock()
        self._failure: Exception | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of every tensor, in the manifest's order."""
        return tuple(self._tensors)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of every file beside the weights."""
        return tuple(self._files)

    def tensor(self, name: str) -> "LazyTensor":
        """A tensor that is read when it is indexed.

        Raises:
            WeightsError: if the manifest has no such tensor.
        """
        entry = self._tensors.get(name)
        if entry is None:
            raise WeightsError(f"the manifest lists no tensor {name}", subject=name)
        return LazyTensor(self, entry)

    def file(self, path: str) -> bytes:
        """A verified file: config, tokenizer, chat template.

        Raises:
            WeightsError: if the manifest has no such file, or it can't be read or differs.
        """
        entry = self._files.get(path)
        if entry is None:
            raise WeightsError(f"the manifest lists no file {path}", subject=path)
        return self._reader.read(entry).numpy().tobytes()

    def raise_failure(self) -> None:
        """Raise the first failure of any read; to be called after a loader that may have swallowed it.

        Raises:
            Exception: what the reading thread raised, a WeightsError in general.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure

    def load(self, entry: TensorEntry) -> torch.Tensor:
        """Read and verify one tensor: of the entry's shape and dtype, CPU, alone in its memory.

        Raises:
            WeightsError: if its bytes can't be read or differ, or an earlier read has failed.
        """
        self.raise_failure()  # the checkpoint is refused as a whole: don't read on for nothing
        try:
            return self._reader.read(entry).view(_DTYPES[entry.dtype]).reshape(entry.shape)
        except Exception as e:
            with self._lock:
                self._failure = self._failure or e
            raise


class LazyTensor:
    """Looks like a slice of a safetensors file to transformers' loader: `[...]` reads and verifies."""

    __slots__ = ("_checkpoint", "_entry")

    def __init__(self, checkpoint: VerifiedCheckpoint, entry: TensorEntry) -> None:
        self._checkpoint = checkpoint
        self._entry = entry

    def __getitem__(self, index: EllipsisType | int | slice | tuple[Any, ...]) -> torch.Tensor:
        """The tensor, or a part of it; the whole is read either way, as its digest covers the whole.

        Raises:
            WeightsError: if its bytes can't be read or differ, or an earlier read of the checkpoint has failed.
        """
        tensor = self._checkpoint.load(self._entry)
        return tensor if index is Ellipsis else tensor[index]

    def get_shape(self) -> list[int]:
        """Its shape, without reading it."""
        return list(self._entry.shape)

    def get_dtype(self) -> str:
        """Its dtype as safetensors names it, without reading it."""
        return self._entry.dtype
