"""The file that keeps what was asked in earlier chats."""

import os
from pathlib import Path

from osai.core.errors import SetupError

MAX_HISTORY_BYTES = 2**20  # some ten thousand questions; the older half goes beyond it
ENTRY = b"\n# "  # how the editor's library begins one


def history_file() -> Path:
    """Where it is."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "osai" / "client" / "chat-history"


def prepare(file: Path) -> None:
    """Make the file, for its owner alone, and keep it from growing without end.

    Raises:
        SetupError: if it can't be written.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
        file.chmod(0o600)  # it may be there already
        if file.stat().st_size > MAX_HISTORY_BYTES:
            _halve(file)
    except OSError as e:
        raise SetupError(f"{file} can't be written ({e.strerror}): what is asked now is not kept") from e


def _halve(file: Path) -> None:
    with file.open("rb") as opened:
        opened.seek(-MAX_HISTORY_BYTES // 2, os.SEEK_END)
        kept = opened.read()
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as shorter:  # noqa: PTH123
        shorter.write(kept[max(0, kept.find(ENTRY)) :])
    partial.replace(file)
