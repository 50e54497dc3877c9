"""The rules that every manifest keeps, parsed or about to be signed. The M numbers are clauses of docs/manifest.md."""

import re
from collections.abc import Iterable
from itertools import pairwise

from osai.core.errors import ManifestError, WeightsError
from osai.core.manifest.chunks import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES, is_chunk_size, num_chunks
from osai.core.manifest.entries import FORMAT, FileEntry, Manifest, TensorEntry
from osai.core.manifest.names import is_plain_name, is_serving_file, is_weight_file
from osai.core.safetensors_header import MAX_INT, num_bytes_of

MAX_FILE_BYTES = 256 * 2**20  # the largest published tokenizer.json has 35 MB
MAX_LAYERS = 10_000  # bounds what `layer_bytes` sets aside
MAX_LICENCE_CHARS = 200
MAX_URL_CHARS = 1000
_WEB_ADDRESS = re.compile(r"https://[!-~]+")  # visible ASCII
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check(manifest: Manifest) -> None:
    """Refuse a manifest that breaks a rule.

    Raises:
        ManifestError: naming the entry and the rule.
    """
    check_format(manifest.format)
    if not is_plain_name(manifest.model_id):  # M4
        raise ManifestError(f"model id {manifest.model_id[:80]!r} may only have letters, digits and ._-/ in it")
    if not 1 <= manifest.version <= MAX_INT or not 0 <= manifest.created_s <= MAX_INT:  # M4
        raise ManifestError("version must be 1 or more, created_s 0 or more")
    if manifest.not_after_s is not None and not 0 <= manifest.not_after_s <= MAX_INT:  # M4
        raise ManifestError("not_after_s must be null, or 0 or more")
    _check_licence(manifest)
    if not is_chunk_size(manifest.chunk_bytes):  # M8
        raise ManifestError(
            f"chunk_bytes is {manifest.chunk_bytes}, no power of two from {MIN_CHUNK_BYTES} to {MAX_CHUNK_BYTES}"
        )
    _refuse_duplicates("file", (entry.path for entry in manifest.files))  # M6
    for file in manifest.files:
        _check_file(file, manifest.chunk_bytes)
    if not manifest.tensors:  # M7
        raise ManifestError("the manifest lists no tensor")
    _refuse_duplicates("tensor", (entry.name for entry in manifest.tensors))  # M7
    for tensor in manifest.tensors:
        _check_tensor(tensor, manifest.chunk_bytes)
    _refuse_overlaps(manifest.tensors)


def check_format(declared: int) -> None:
    """Refuse a format that this release does not read.

    Raises:
        ManifestError: saying who must do what.
    """
    if declared < FORMAT:  # M3
        raise ManifestError(
            f"manifest format {declared} is no longer read (this release reads {FORMAT}): "
            "sign it again with `osai manifest create`"
        )
    if declared != FORMAT:  # M3
        raise ManifestError(f"manifest format {declared} is unknown (this release reads {FORMAT}): upgrade osai")


def _check_licence(manifest: Manifest) -> None:
    if not manifest.licence.isprintable() or not 0 < len(manifest.licence) <= MAX_LICENCE_CHARS:  # M5
        raise ManifestError(f"licence must be a line of 1 to {MAX_LICENCE_CHARS} characters")
    if manifest.licence_url and not is_web_address(manifest.licence_url):  # M5
        raise ManifestError(f"licence_url must be empty or an https:// address of at most {MAX_URL_CHARS} characters")


def is_web_address(text: str) -> bool:
    """Whether this is an https address that can be shown as it is (M5)."""
    return len(text) <= MAX_URL_CHARS and _WEB_ADDRESS.fullmatch(text) is not None


def _check_file(entry: FileEntry, chunk_bytes: int) -> None:
    if not is_plain_name(entry.path) or not is_serving_file(entry.path):  # M6
        raise ManifestError(f"file {entry.path[:80]!r} is none that serving reads (config, tokenizer, chat template)")
    if not 0 <= entry.size_bytes <= MAX_FILE_BYTES:  # M6
        raise ManifestError(f"file {entry.path}: {entry.size_bytes} bytes; at most {MAX_FILE_BYTES} are allowed")
    _check_chunks(f"file {entry.path}", entry, chunk_bytes)


def _check_tensor(entry: TensorEntry, chunk_bytes: int) -> None:
    if not is_plain_name(entry.name):  # M4
        raise ManifestError(f"tensor name {entry.name[:80]!r} may only have letters, digits and ._-/ in it")
    where = f"tensor {entry.name}"
    if not is_plain_name(entry.file) or not is_weight_file(entry.file):  # M7
        raise ManifestError(f"{where}: file {entry.file[:80]!r} is no relative path of a .safetensors file")
    if not 0 <= entry.begin <= entry.end <= MAX_INT:  # M7
        raise ManifestError(f"{where}: bytes [{entry.begin}, {entry.end}) are no range of a file")
    if entry.layer is not None and not 0 <= entry.layer < MAX_LAYERS:  # M7
        raise ManifestError(f"{where}: layer {entry.layer} is not between 0 and {MAX_LAYERS - 1}")
    try:
        num_bytes = num_bytes_of(entry.dtype, entry.shape)
    except WeightsError as e:  # M7
        raise ManifestError(f"{where}: {e.message}", subject=entry.name) from e
    if num_bytes != entry.size_bytes:  # M7
        raise ManifestError(f"{where}: {entry.size_bytes} bytes where dtype and shape make {num_bytes}")
    _check_chunks(where, entry, chunk_bytes)


def _check_chunks(where: str, entry: FileEntry | TensorEntry, chunk_bytes: int) -> None:
    due = num_chunks(entry.size_bytes, chunk_bytes)
    if len(entry.chunks) not in (0, due):  # M8
        raise ManifestError(f"{where}: {len(entry.chunks)} chunks where its {entry.size_bytes} bytes make {due}")
    if not all(_SHA256.fullmatch(digest) for digest in entry.chunks):  # M8
        raise ManifestError(f"{where}: a chunk's digest is not 64 lower-case hex digits")


def _refuse_duplicates(kind: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ManifestError(f"{kind} {name[:80]!r} is listed twice")
        seen.add(name)


def _refuse_overlaps(tensors: Iterable[TensorEntry]) -> None:
    placed = sorted((t for t in tensors if t.size_bytes), key=lambda t: (t.file, t.begin))
    for first, second in pairwise(placed):
        if first.file == second.file and second.begin < first.end:  # M7
            raise ManifestError(f"tensors {first.name} and {second.name} overlap in {first.file}")
