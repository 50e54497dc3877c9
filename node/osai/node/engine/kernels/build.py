"""Compiles the kernels for this very processor, once, and keeps the result in the user's cache folder."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from osai.core.errors import SetupError

_SOURCES = Path(__file__).parent
# without contraction: else the compiler chooses what to fuse, otherwise for AVX2 than for AVX-512, and numbers differ
_FLAGS = (
    "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC", "-std=gnu11", "-Wall", "-Wextra", "-Wno-psabi"
)  # fmt: skip
_COMPILERS = ("cc", "gcc", "clang")
_TIMEOUT_S = 120.0  # it takes a second or two


def default_folder() -> Path:
    """Where compiled kernels are kept: $XDG_CACHE_HOME/osai/kernels."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path("~/.cache").expanduser()) / "osai" / "kernels"


def build(folder: Path, *options: str) -> Path:
    """The library of the kernels, compiled now if this source has not been compiled for this processor before.

    Args:
        folder: where it is kept.
        options: for the compiler, besides the usual ones.

    Raises:
        SetupError: if there is no compiler, it fails, or the folder can't be written.
    """
    compiler = _find_compiler()
    library = folder / f"osai-{_fingerprint(compiler, options)}.so"
    if not library.exists():
        try:
            _compile(compiler, library, options)
        except OSError as e:
            raise SetupError(f"can't write compiled kernels to {folder}: {e}") from e
    return library


def _find_compiler() -> str:
    wanted = os.environ.get("CC")
    found = next(filter(None, map(shutil.which, [wanted] if wanted else _COMPILERS)), None)
    if found is None:
        raise SetupError(f"no C compiler: {wanted or ', '.join(_COMPILERS)} not found; install gcc, or set CC")
    return found


def _compile(compiler: str, library: Path, options: Sequence[str]) -> None:
    library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        made = Path(work) / library.name
        sources = sorted(str(path) for path in _SOURCES.glob("*.c"))
        try:
            done = subprocess.run(  # noqa: S603  the user's own compiler
                [compiler, *_FLAGS, *options, *_tuning(_processor()), "-o", str(made), *sources],
                capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as e:
            raise SetupError(f"{compiler} took more than {_TIMEOUT_S:.0f} s for the kernels") from e
        if done.returncode != 0:
            raise SetupError(f"{compiler} can't compile the kernels: {done.stderr.strip()[-500:]}")
        made.replace(library)  # at once: another process may be looking for it


def _fingerprint(compiler: str, options: Sequence[str]) -> str:
    """Of all that decides what the compiler makes: sources, flags, compiler, processor."""
    digest = hashlib.sha256(" ".join((*_FLAGS, *options, compiler, platform.machine())).encode())
    for path in sorted(_SOURCES.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    digest.update(_processor())
    return digest.hexdigest()[:16]


def _processor() -> bytes:
    """The processor's make, model and features, as Linux tells them; the cache may be on several machines' disk."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    telling = (b"vendor_id", b"model", b"flags", b"Features")
    return b"\n".join(sorted({line for line in lines if line.startswith(telling)}))


def _tuning(processor: bytes) -> tuple[str, ...]:
    """What the sources ask for beside -march=native, which does not name every compiler's newest processors."""
    return ("-DOSAI_AMD",) if b"AuthenticAMD" in processor else ()
