"""The `model-signing` library: importing it, and its failures as errors of osai."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from osai.core.errors import OsaiError, SetupError
from osai.core.manifest import MANIFEST_FILE

# The library's own errors are bare ValueErrors; whatever else it raises was not made for people.
_READABLE = (
    "ValueError",
    "X509StoreContextError",
    "VerificationError",
    "CertValidationError",
    "NetworkError",
    "TUFError",
)


def load(module: str) -> Any:  # noqa: ANN401 - an optional package has no static type here
    """Import a module of the extra `oms`.

    Raises:
        SetupError: if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as e:
        raise SetupError(
            f"OpenSSF model signatures need packages that are not here ({e}): pip install 'osai[oms]'"
        ) from e


@contextmanager
def failing_as(error: type[OsaiError], what: str, advice: str) -> Iterator[None]:
    """Report every failure within as `error`: WHAT: the reason; ADVICE.

    Raises:
        OsaiError: of that type; one that is raised within passes unchanged.
    """
    try:
        yield
    except OsaiError:
        raise
    except Exception as e:  # the library lets through whatever a damaged file makes its parsers raise
        raise error(f"{what}: {_reason(e)}; {advice}") from e


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"can't read {error.filename}: {error.strerror}" if error.filename else str(error)
    name = type(error).__name__
    if name == "InvalidSignature":
        return "the signature does not fit the key and the statement"
    return str(error) if name in _READABLE and str(error) else f"it is malformed or of another kind ({name})"


def hashing_config(ignored: tuple[str, ...], *, allow_symlinks: bool) -> Any:  # noqa: ANN401 - see `load`
    """How the library reads a folder: SHA-256 of each file, as its own command does.

    Args:
        ignored: paths relative to the folder, beside the git files that are always ignored.
        allow_symlinks: read what links point at; otherwise a link is refused.
    """
    config = load("model_signing.hashing").Config()
    return config.set_ignored_paths(paths=ignored, ignore_git_paths=True).set_allow_symlinks(allow_symlinks)


def path_within(folder: Path, path: Path) -> str | None:
    """`path` relative to `folder`, `/` between components; None if it lies elsewhere. The last link is not followed."""
    place = path.parent.resolve() / path.name
    return place.relative_to(folder.resolve()).as_posix() if place.is_relative_to(folder.resolve()) else None


def ignored_paths(folder: Path, signature: Path, *, osai_manifest: bool) -> tuple[str, ...]:
    """What a signature leaves out: itself, and the manifest, which has a signature of its own and comes later."""
    own = path_within(folder, signature)
    return ((own,) if own else ()) + ((MANIFEST_FILE,) if osai_manifest else ())
