"""Trust on disk: the policy that a program's command line gives, and what a member remembers beside its identity."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from osai.core.embedded import MODEL_ID, publisher_key_file
from osai.core.errors import SetupError, TrustError
from osai.core.manifest import SignedManifest, TrustMemory, TrustPolicy, parse_key_list, parse_public_key, verify
from osai.core.manifest.key_list_file import MAX_KEYS_FILE_BYTES
from osai.core.manifest.memory import MAX_MEMORY_BYTES
from osai.core.manifest.rotation import current_lists

MEMORY_FILE = "trust-memory.json"


def read_trust(files: Iterable[Path]) -> TrustPolicy:
    """Trust who `files` name, and the embedded model's publisher for that model alone.

    Args:
        files: public keys, each for any model, and key lists (`osai trust create`), each for the models that it names.

    Raises:
        SetupError: if a file can't be read or is neither, or a key list is not signed as it must be.
    """
    policy = TrustPolicy()
    if publisher_key_file().exists():
        policy |= TrustPolicy.pinned(MODEL_ID, parse_public_key(publisher_key_file().read_bytes()))
    for file in files:
        policy |= _read(file)
    try:
        current_lists(policy.key_lists, {})
    except TrustError as e:
        raise SetupError(f"--trust: {e.message}") from e
    return policy


def _read(file: Path) -> TrustPolicy:
    try:
        data = read_bounded(file, MAX_KEYS_FILE_BYTES)
        if data.lstrip().startswith(b"{"):
            return TrustPolicy.listed(parse_key_list(data))
        return TrustPolicy.of([parse_public_key(data)])
    except OSError as e:
        raise SetupError(f"--trust {file}: it can't be read: {e.strerror}") from e
    except TrustError as e:
        raise SetupError(f"--trust {file}: {e.message}") from e


def read_bounded(file: Path, max_bytes: int) -> bytes:
    """A file's first bytes, one more than `max_bytes` at most: whoever parses them refuses what is longer."""
    with file.open("rb") as opened:
        return opened.read(max_bytes + 1)


def verify_and_remember(signed: SignedManifest, trust: TrustPolicy, folder: Path, *, now_s: float) -> None:
    """`verify` with the memory of a member's state folder, which is written anew once the manifest is accepted (H1).

    Raises:
        ManifestError: as `verify`.
        SetupError: if the memory can't be read or written, or is damaged.
    """
    memory = read_memory(folder)
    verify(signed, trust, now_s=now_s, memory=memory)
    try:
        after = memory.remembering(signed, trust)
    except TrustError as e:
        raise SetupError(f"{folder / MEMORY_FILE}: {e.message}; move it away to begin anew") from e
    if after != memory:
        write_memory(folder, after)


def read_memory(folder: Path) -> TrustMemory:
    """What a member has believed; nothing where it never believed anything.

    Raises:
        SetupError: if the file can't be read or is damaged (H4): it is not taken for an empty one.
    """
    path = folder / MEMORY_FILE
    try:
        return TrustMemory.from_json(read_bounded(path, MAX_MEMORY_BYTES))
    except FileNotFoundError:
        return TrustMemory()
    except OSError as e:
        raise SetupError(f"{path} can't be read ({e.strerror}); choose another --state") from e
    except TrustError as e:
        raise SetupError(
            f"{path} is damaged ({e.message}): put a copy of it back, or move it away; then it is not known which "
            "versions of models were believed before, and an old one may be taken"
        ) from e


def write_memory(folder: Path, memory: TrustMemory) -> None:
    """Write the memory (mode 0600) so that a crash leaves the old file or the new one (H5).

    Raises:
        SetupError: if the folder can't be used.
    """
    path = folder / MEMORY_FILE
    partial = path.with_name(f"{MEMORY_FILE}.{os.getpid()}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(memory.to_json())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise SetupError(f"the state folder {folder} can't be used ({e.strerror}); choose another --state") from e
