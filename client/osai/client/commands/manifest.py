"""`osai manifest`: sign a checkpoint's folder, check one, show what a manifest says."""

import time
from pathlib import Path

import click

from osai.client.commands.hashing_progress import hashing_progress
from osai.client.commands.manifest_file import next_version, read_manifest, write_whole
from osai.client.publisher_keys import load_key
from osai.client.signing import build_manifest, checkpoint_bytes, verify_folder
from osai.core.errors import SetupError
from osai.core.manifest import (
    MANIFEST_FILE,
    SignedManifest,
    TrustMemory,
    add_signature,
    sign,
    unsigned,
    verify,
)
from osai.core.manifest.times import utc
from osai.core.reporting import ReportingGroup
from osai.core.trust_files import read_trust

DAY_S = 86_400
_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
_FILE = click.Path(path_type=Path, dir_okay=False)
_MANIFEST_OPTION = click.option("--manifest", "manifest_file", type=_FILE, help=f"Default: DIR/{MANIFEST_FILE}.")


@click.group("manifest", cls=ReportingGroup)
def manifest_group() -> None:
    """Sign the weights, config and tokenizer of a model, and check them."""


@manifest_group.command("create")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--key", "key_files", type=_FILE, multiple=True, help="Private key, from `osai key create`. Repeatable.")
@click.option("--unsigned", "is_unsigned", is_flag=True, help="No key: only for nodes that run with --allow-unsigned.")
@click.option("--model-id", required=True, help="The model's name in the swarm, as in org/name.")
@click.option("--version", type=click.IntRange(min=1), help="Default: one more than DIR's present manifest, or 1.")
@click.option("--valid-days", type=click.IntRange(min=1), help="Days after which it is refused. Default: never.")
@click.option("--licence", help="Default: that of README.md, or unknown.")
@click.option("--licence-url", help="Where its words are, https://... Default: that of README.md, or none.")
@click.option("--licence-must-accept", is_flag=True, help="Only for nodes that run with --accept-licence.")
@click.option("--out", type=_FILE, help=f"Default: DIR/{MANIFEST_FILE}.")
def create(
    *,
    folder: Path,
    key_files: tuple[Path, ...],
    is_unsigned: bool,
    model_id: str,
    version: int | None,
    valid_days: int | None,
    licence: str | None,
    licence_url: str | None,
    licence_must_accept: bool,
    out: Path | None,
) -> None:
    """Hash every tensor, config and tokenizer file of DIR and sign the list.

    \b
    Examples:
      osai manifest create ./my-model --key release.pem --model-id me/my-model
      osai manifest create ./my-model --key release.pem --model-id me/my-model --licence apache-2.0
    """  # noqa: D301 (click reads the escape)
    if bool(key_files) == is_unsigned:
        raise SetupError("sign with --key KEY, or say --unsigned")
    identities = [load_key(key_file) for key_file in key_files]
    path, now_s = out or folder / MANIFEST_FILE, int(time.time())
    with hashing_progress("hashing", checkpoint_bytes(folder)) as on_bytes:
        manifest = build_manifest(
            folder,
            model_id,
            version or next_version(path, model_id),
            licence,
            on_bytes,
            created_s=now_s,
            not_after_s=now_s + valid_days * DAY_S if valid_days else None,
            licence_url=licence_url,
            licence_must_accept=licence_must_accept,
        )
    write_whole(path, sign(manifest, *identities) if identities else unsigned(manifest))
    signers = ", ".join(identity.public_key.hex() for identity in identities)
    click.echo(
        f"{path}: {model_id} version {manifest.version}, licence {manifest.licence}, {len(manifest.files)} files and "
        f"{len(manifest.tensors)} tensors, {f'signed by {signers}' if signers else 'UNSIGNED'}"
    )


@manifest_group.command("sign")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--key", "key_file", type=_FILE, required=True, help="Private key, from `osai key create`.")
@_MANIFEST_OPTION
def sign_command(folder: Path, key_file: Path, manifest_file: Path | None) -> None:
    """Add a signature to DIR's manifest, which stays as it is otherwise.

    Nothing is hashed: check DIR with `osai manifest verify` first.

    \b
    Example:
      osai manifest sign ./my-model --key second.pem
    """  # noqa: D301 (click reads the escape)
    path = manifest_file or folder / MANIFEST_FILE
    signed, identity = read_manifest(path), load_key(key_file)
    write_whole(path, add_signature(signed, identity))
    num_others = sum(1 for signature in signed.signatures if signature.public_key != identity.public_key)
    click.echo(
        f"{path}: {signed.manifest.model_id} version {signed.manifest.version} is signed by "
        f"{identity.public_key.hex()}, and by {num_others} other keys"
    )


@manifest_group.command("verify")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--trust", "trusted", required=True, multiple=True, type=_FILE,
              help="Public key, or a publisher's key list. Repeatable.")  # fmt: skip
@_MANIFEST_OPTION
def verify_command(folder: Path, trusted: tuple[Path, ...], manifest_file: Path | None) -> None:
    """Check the manifest's signatures, then every byte that it lists.

    \b
    Example:
      osai manifest verify ./my-model --trust release.pub
    """  # noqa: D301 (click reads the escape)
    trust = read_trust(trusted)
    signed = read_manifest(manifest_file or folder / MANIFEST_FILE)
    verify(signed, trust, now_s=time.time(), memory=TrustMemory())
    manifest = signed.manifest
    with hashing_progress("verifying", manifest.num_bytes()) as on_bytes:
        verify_folder(folder, signed, on_bytes)
    click.echo(
        f"verified: {manifest.model_id} version {manifest.version}, {len(manifest.files)} files and "
        f"{len(manifest.tensors)} tensors are what a trusted publisher signed"
    )


@manifest_group.command("show")
@click.argument("folder", metavar="DIR", type=_FOLDER)
def show(folder: Path) -> None:
    """Say what DIR's manifest states. Nothing is verified.

    \b
    Example:
      osai manifest show ./my-model
    """  # noqa: D301 (click reads the escape)
    for name, value in _rows(read_manifest(folder / MANIFEST_FILE)):
        click.echo(f"{name:<10} {value}")


def _rows(signed: SignedManifest) -> list[tuple[str, str]]:
    manifest = signed.manifest
    must_accept = ", to be accepted by who hosts it" if manifest.licence_must_accept else ""
    rows = [
        ("model", manifest.model_id),
        ("version", str(manifest.version)),
        ("created", utc(manifest.created_s)),
        ("expires", "never" if manifest.not_after_s is None else utc(manifest.not_after_s)),
        ("licence", f"{manifest.licence} {manifest.licence_url}".rstrip() + must_accept),
        ("files", ", ".join(file.path for file in manifest.files)),
        ("tensors", f"{len(manifest.tensors)} of {len(manifest.layer_bytes())} layers and the rest"),
        ("bytes", f"{manifest.num_bytes():,} in chunks of {manifest.chunk_bytes:,}"),
        ("digest", signed.digest.hex()),
    ]
    signers = [("signed by", signature.public_key.hex()) for signature in signed.signatures]
    return rows + (signers or [("signed by", "nobody")])
