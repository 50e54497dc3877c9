"""Coverage-guided fuzzing of what reads peers' bytes: `python -m scripts.chaos_runs.fuzz READER SECONDS [FOLDER]`.

It needs atheris (extra `fuzz`). What a reader raises, other than a typed error, ends it with a status above 0, and the
bytes lie in FOLDER, as does what was found on the way, for the next time. Without a folder nothing is kept.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["osai.core", "osai.node.control_wire", "osai.coordinator"]):
    from google.protobuf.message import DecodeError
    from scripts.chaos_runs.attack_readers import BYTES, MESSAGES

    from osai.core.errors import OsaiError

MAX_BYTES = 64 * 2**10  # of one input: longer ones are refused by their length
NAMES = (*MESSAGES, *BYTES)


def main(name: str, seconds: int, folder: Path) -> None:
    """Fuzz one reader; libFuzzer ends the process."""
    sound, read = _reader(name)
    corpus = folder / name.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "sound").write_bytes(sound)

    def attack(data: bytes) -> None:
        try:
            read(data)
        except (OsaiError, DecodeError):
            return

    options = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-artifact_prefix={folder}/", "-timeout=10"]
    atheris.Setup([sys.argv[0], *options, "-rss_limit_mb=4096", "-verbosity=1", str(corpus)], attack)
    atheris.Fuzz()


def _reader(name: str) -> tuple[bytes, Callable[[bytes], object]]:
    if name in BYTES:
        return BYTES[name]()
    kind, read = MESSAGES[name]
    return b"", lambda data: read(kind.FromString(data))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in NAMES or not sys.argv[2].isdigit():
        sys.exit(f"usage: python -m scripts.chaos_runs.fuzz READER SECONDS [FOLDER], of {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(prefix="osai-fuzz-") as scratch:
        main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) == 4 else scratch))
