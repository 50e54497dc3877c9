"""The rules that every manifest keeps, parsed or about to be signed. The M numbers are clauses of docs/manifest.md."""

import re
from collections.abc import Iterable
from itertools import pairwise

from osai.core.errors import ManifestError, WeightsError
from osai.core.manifest.entries import FORMAT, FileEntry, Manifest, TensorEntry
from osai.core.manifest.names import is_plain_name, is_serving_file, is_weight_file
from osai.core.safetensors_header import MAX_INT, num_bytes_of

MAX_FILE_BYTES = 256 * 2**20  # the largest published tokenizer.json has 35 MB
MAX_LAYERS = 10_000  # bounds what `layer_bytes` sets aside
MAX_LICENCE_CHARS = 200
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check(manifest: Manifest) -> None:
    """Refuse a manifest that breaks a rule.

    Raises:
        ManifestError: naming the entry and the rule.
    """
    if manifest.format != FORMAT:  # M3
        raise ManifestError(f"manifest format {manifest.format} is unknown (this release reads {FORMAT}): upgrade osai")
    if not is_plain_name(manifest.model_id):  # M4
        raise ManifestError(f"model id {manifest.model_id[:80]!r} may only have letters, digits and ._-/ in it")
    if not 1 <= manifest.version <= MAX_INT or not 0 <= manifest.created_s <= MAX_INT:  # M4
        raise ManifestError("version must be 1 or more, created_s 0 or more")
    if not manifest.licence.isprintable() or not 0 < len(manifest.licence) <= MAX_LICENCE_CHARS:  # M4
        raise ManifestError(f"licence must be a line of 1 to {MAX_LICENCE_CHARS} characters")
    _refuse_duplicates("file", (entry.path for entry in manifest.files))  # M5
    for file in manifest.files:
        _check_file(file)
    if not manifest.tensors:  # M6
        raise ManifestError("the manifest lists no tensor")
    _refuse_duplicates("tensor", (entry.name for entry in manifest.tensors))  # M6
    for tensor in manifest.tensors:
        _check_tensor(tensor)
    _refuse_overlaps(manifest.tensors)


def _check_file(entry: FileEntry) -> None:
    if not is_plain_name(entry.path) or not is_serving_file(entry.path):  # M5
        raise ManifestError(f"file {entry.path[:80]!r} is none that serving reads (config, tokenizer, chat template)")
    if not 0 <= entry.size_bytes <= MAX_FILE_BYTES:  # M5
        raise ManifestError(f"file {entry.path}: {entry.size_bytes} bytes; at most {MAX_FILE_BYTES} are allowed")
    _check_digest(f"file {entry.path}", entry.sha256)


def _check_tensor(entry: TensorEntry) -> None:
    if not is_plain_name(entry.name):  # M4
        raise ManifestError(f"tensor name {entry.name[:80]!r} may only have letters, digits and ._-/ in it")
    where = f"tensor {entry.name}"
    if not is_plain_name(entry.file) or not is_weight_file(entry.file):  # M6
        raise ManifestError(f"{where}: file {entry.file[:80]!r} is no relative path of a .safetensors file")
    if not 0 <= entry.begin <= entry.end <= MAX_INT:  # M6
        raise ManifestError(f"{where}: bytes [{entry.begin}, {entry.end}) are no range of a file")
    if entry.layer is not None and not 0 <= entry.layer < MAX_LAYERS:  # M6
        raise ManifestError(f"{where}: layer {entry.layer} is not between 0 and {MAX_LAYERS - 1}")
    try:
        num_bytes = num_bytes_of(entry.dtype, entry.shape)
    except WeightsError as e:  # M6
        raise ManifestError(f"{where}: {e.message}", subject=entry.name) from e
    if num_bytes != entry.size_bytes:  # M6
        raise ManifestError(f"{where}: {entry.size_bytes} bytes where dtype and shape make {num_bytes}")
    _check_digest(where, entry.sha256)


def _check_digest(where: str, sha256: str) -> None:
    if sha256 and _SHA256.fullmatch(sha256) is None:  # M7
        raise ManifestError(f"{where}: sha256 is not 64 lower-case hex digits")


def _refuse_duplicates(kind: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ManifestError(f"{kind} {name[:80]!r} is listed twice")
        seen.add(name)


def _refuse_overlaps(tensors: Iterable[TensorEntry]) -> None:
    placed = sorted((t for t in tensors if t.size_bytes), key=lambda t: (t.file, t.begin))
    for first, second in pairwise(placed):
        if first.file == second.file and second.begin < first.end:  # M6
            raise ManifestError(f"tensors {first.name} and {second.name} overlap in {first.file}")
