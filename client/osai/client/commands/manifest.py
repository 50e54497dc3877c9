"""`osai manifest`: sign a checkpoint's folder, check one, show what a manifest says."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from osai.client.checkpoint_folder import OnBytes, read_at_most
from osai.client.signing import build_manifest, checkpoint_bytes, load_key, verify_folder
from osai.core.errors import ManifestError, SetupError, TrustError, WeightsError
from osai.core.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    SignedManifest,
    TrustPolicy,
    parse,
    parse_public_key,
    sign,
    unsigned,
    verify,
)
from osai.core.manifest.trust import MAX_KEY_FILE_BYTES
from osai.core.reporting import ReportingGroup

_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("manifest", cls=ReportingGroup)
def manifest_group() -> None:
    """Sign the weights, config and tokenizer of a model, and check them."""


@manifest_group.command("create")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--key", "key_file", type=_FILE, help="Private key, from `osai key create`.")
@click.option("--unsigned", "is_unsigned", is_flag=True, help="No key: only for nodes that run with --allow-unsigned.")
@click.option("--model-id", required=True, help="The model's name in the swarm, as in org/name.")
@click.option("--version", type=click.IntRange(min=1), help="Default: one more than DIR's present manifest, or 1.")
@click.option("--licence", help="Default: that of README.md, or unknown.")
@click.option("--out", type=_FILE, help=f"Default: DIR/{MANIFEST_FILE}.")
def create(
    *,
    folder: Path,
    key_file: Path | None,
    is_unsigned: bool,
    model_id: str,
    version: int | None,
    licence: str | None,
    out: Path | None,
) -> None:
    """Hash every tensor, config and tokenizer file of DIR and sign the list.

    \b
    Examples:
      osai manifest create ./my-model --key release.pem --model-id me/my-model
      osai manifest create ./my-model --key release.pem --model-id me/my-model --licence apache-2.0
    """  # noqa: D301 (click reads the escape)
    if (key_file is None) != is_unsigned:
        raise SetupError("sign with --key KEY, or say --unsigned")
    identity = load_key(key_file) if key_file else None
    path = out or folder / MANIFEST_FILE
    version = version or _next_version(path, model_id)
    with _progress("hashing", checkpoint_bytes(folder)) as on_bytes:
        manifest = build_manifest(folder, model_id, version, licence, on_bytes)
    _write(path, sign(manifest, identity) if identity else unsigned(manifest))
    signer = f"signed by {identity.public_key.hex()}" if identity else "UNSIGNED"
    click.echo(
        f"{path}: {model_id} version {version}, licence {manifest.licence}, {len(manifest.files)} files and "
        f"{len(manifest.tensors)} tensors, {signer}"
    )


@manifest_group.command("verify")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--trust", "trusted", required=True, multiple=True, type=_FILE, help="Public key; may be repeated.")
@click.option("--manifest", "manifest_file", type=_FILE, help=f"Default: DIR/{MANIFEST_FILE}.")
def verify_command(folder: Path, trusted: tuple[Path, ...], manifest_file: Path | None) -> None:
    """Check the manifest's signature, then every byte that it lists.

    \b
    Example:
      osai manifest verify ./my-model --trust release.pub
    """  # noqa: D301 (click reads the escape)
    trust = TrustPolicy.of(_public_key(path) for path in trusted)
    signed = _read(manifest_file or folder / MANIFEST_FILE)
    verify(signed, trust)
    manifest = signed.manifest
    with _progress("verifying", manifest.num_bytes()) as on_bytes:
        verify_folder(folder, signed, on_bytes)
    click.echo(
        f"verified: {manifest.model_id} version {manifest.version}, {len(manifest.files)} files and "
        f"{len(manifest.tensors)} tensors are what a trusted key signed"
    )


@manifest_group.command("show")
@click.argument("folder", metavar="DIR", type=_FOLDER)
def show(folder: Path) -> None:
    """Say what DIR's manifest states. Nothing is verified.

    \b
    Example:
      osai manifest show ./my-model
    """  # noqa: D301 (click reads the escape)
    signed = _read(folder / MANIFEST_FILE)
    manifest = signed.manifest
    rows = [
        ("model", manifest.model_id),
        ("version", str(manifest.version)),
        ("created", _date(manifest.created_s)),
        ("licence", manifest.licence),
        ("files", ", ".join(file.path for file in manifest.files)),
        ("tensors", f"{len(manifest.tensors)} of {len(manifest.layer_bytes())} layers and the rest"),
        ("bytes", f"{manifest.num_bytes():,}"),
        ("digest", signed.digest.hex()),
    ]
    rows += [("signed by", signature.public_key.hex()) for signature in signed.signatures] or [("signed by", "nobody")]
    for name, value in rows:
        click.echo(f"{name:<10} {value}")


def _date(created_s: int) -> str:
    try:
        return datetime.fromtimestamp(created_s, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # a time past the year 9999
        return f"{created_s} s"


def _read(path: Path) -> SignedManifest:
    if not path.exists():
        raise ManifestError(f"there is no manifest {path}: make one with `osai manifest create`")
    try:
        return parse(read_at_most(path.parent, path.name, MAX_MANIFEST_BYTES))
    except WeightsError as e:  # unreadable or oversized: said of the manifest
        raise ManifestError(e.message) from e


def _public_key(path: Path) -> bytes:
    try:
        return parse_public_key(read_at_most(path.parent, path.name, MAX_KEY_FILE_BYTES))
    except TrustError as e:
        raise SetupError(f"--trust {path}: {e.message}") from e


def _next_version(path: Path, model_id: str) -> int:
    if not path.exists():
        return 1
    present = _read(path).manifest
    return present.version + 1 if present.model_id == model_id else 1


def _write(path: Path, data: bytes) -> None:
    """Write beside, then rename: a reader never sees half a manifest."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as e:
        raise SetupError(f"can't write {path}: {e.strerror}; choose another place with --out") from e


@contextmanager
def _progress(what: str, total_bytes: int) -> Iterator[OnBytes | None]:
    """A bar on a terminal (standard error), nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total_bytes)
        yield lambda count: progress.advance(task, count)
