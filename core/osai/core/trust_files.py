"""The trust policy that a program's command line gives."""

from collections.abc import Iterable
from pathlib import Path

from osai.core.embedded import MODEL_ID, publisher_key_file
from osai.core.errors import SetupError, TrustError
from osai.core.manifest import TrustPolicy, parse_public_key


def read_trust(files: Iterable[Path]) -> TrustPolicy:
    """Trust the keys in `files` for any model, and the embedded model's publisher for that model alone.

    Raises:
        SetupError: if a file can't be read or holds no public key.
    """
    policy = TrustPolicy()
    if publisher_key_file().exists():
        policy |= TrustPolicy.pinned(MODEL_ID, _read(publisher_key_file()))
    for file in files:
        policy |= TrustPolicy.of([_read(file)])
    return policy


def _read(file: Path) -> bytes:
    try:
        return parse_public_key(file.read_bytes())
    except OSError as e:
        raise SetupError(f"{file} can't be read: {e.strerror}") from e
    except TrustError as e:
        raise SetupError(f"{file}: {e}") from e
