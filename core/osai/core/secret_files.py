"""Files that nobody else may read, and that nobody sees half of."""

import os
from pathlib import Path

from osai.core.errors import SetupError


def write_secret(path: Path, data: bytes) -> None:
    """Write beside, readable by the owner alone, then rename: nobody ever sees half a file.

    Raises:
        OSError: if it can't be written.
    """
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_bounded(path: Path, max_bytes: int, hint: str) -> bytes:
    """A file's content; of one that is too long one byte more than that, which its reader refuses.

    Args:
        path: the file.
        max_bytes: that its reader takes.
        hint: what to do where it can't be read.

    Raises:
        SetupError: if it can't be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as e:
        raise SetupError(f"{path} can't be read ({e.strerror}): {hint}") from e
