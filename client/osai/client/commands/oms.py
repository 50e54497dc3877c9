"""`osai oms`: signatures of the OpenSSF Model Signing format."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from osai.client.commands.hashing_progress import hashing_progress
from osai.client.commands.manifest import DAY_S
from osai.client.commands.manifest_file import next_version, write_whole
from osai.client.oms.authority import Authority, choose_authority
from osai.client.oms.countersign import listed_licence, prove_same_bytes
from osai.client.oms.library import path_within
from osai.client.oms.sign import OmsKey, sign_oms
from osai.client.oms.verify import VerifiedFolder, verify_oms
from osai.client.publisher_keys import load_key
from osai.client.signing import build_manifest, checkpoint_bytes
from osai.core.errors import SetupError
from osai.core.manifest import MANIFEST_FILE, sign
from osai.core.reporting import ReportingGroup

SIGNATURE_FILE = "model.sig"  # where publishers put it, and where the library's own command does
NUM_NAMED = 5  # files that a line names before it counts the rest

_FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, exists=True))
_FILE = click.Path(path_type=Path, dir_okay=False)
_LINKS = click.option("--allow-symlinks", is_flag=True, help="Take what links point at for the files.")


def _authority_options(*key_names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that say which signature is checked and whose is accepted."""
    options: list[Any] = [
        click.option("--signature", type=_FILE, help=f"Default: DIR/{SIGNATURE_FILE}."),
        click.option(*key_names, "public_key", type=_FILE, help="Accept this P-256, P-384 or P-521 public key."),
        click.option(
            "--certificate-chain",
            "chain",
            type=_FILE,
            multiple=True,
            help="Accept signing certificates under these roots; may be repeated.",
        ),
        click.option("--allow-expired", is_flag=True, help="Accept certificates that no longer hold."),
        click.option("--sigstore-identity", "identity", help="Accept this Sigstore identity, as in me@example.com."),
        click.option("--identity-provider", "provider", help="Address of the identity's OpenID Connect issuer."),
        click.option(
            "--sigstore-trust-config",
            "trust_config",
            type=_FILE,
            help="Sigstore's client trust configuration. Default: fetched.",
        ),
        _LINKS,
    ]

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group("oms", cls=ReportingGroup)
def oms_group() -> None:
    """Check and make signatures of the OpenSSF Model Signing format (needs osai[oms])."""


@oms_group.command("verify")
@_FOLDER
@_authority_options("--public-key", "--key")
def verify_command(folder: Path, signature: Path | None, *, allow_symlinks: bool, **accepted: Any) -> None:  # noqa: ANN401 - click's options
    """Check the signature, then every file of DIR.

    \b
    Examples:
      osai oms verify ./my-model --public-key publisher.pub
      osai oms verify ./my-model --signature my-model.sig --certificate-chain ca.pem
      osai oms verify ./my-model --sigstore-identity me@example.com --identity-provider https://accounts.example.com
    """  # noqa: D301 (click reads the escape)
    verified = _verify(folder, signature, choose_authority(**accepted), allow_symlinks=allow_symlinks)
    click.echo(f"verified: {_said_of(verified)}")


@oms_group.command("countersign")
@_FOLDER
@_authority_options("--public-key")
@click.option("--key", "key_files", type=_FILE, required=True, multiple=True,
              help="Your private key, from `osai key create`. Repeatable.")  # fmt: skip
@click.option("--model-id", required=True, help="The model's name in the swarm, as in org/name.")
@click.option("--version", type=click.IntRange(min=1), help="Default: one more than DIR's present manifest, or 1.")
@click.option("--valid-days", type=click.IntRange(min=1), help="Days after which it is refused. Default: never.")
@click.option("--licence", help="Default: that of README.md, if the signature lists it, or unknown.")
@click.option("--licence-url", help="Where its words are, https://... Default: that of README.md, or none.")
@click.option("--licence-must-accept", is_flag=True, help="Only for nodes that run with --accept-licence.")
@click.option("--out", type=_FILE, help=f"Default: DIR/{MANIFEST_FILE}.")
def countersign(
    *,
    folder: Path,
    signature: Path | None,
    allow_symlinks: bool,
    key_files: tuple[Path, ...],
    model_id: str,
    version: int | None,
    valid_days: int | None,
    licence: str | None,
    licence_url: str | None,
    licence_must_accept: bool,
    out: Path | None,
    **accepted: Any,  # noqa: ANN401 - click's options
) -> None:
    """Check the signature and every file of DIR, then sign an osai manifest of the very same bytes.

    \b
    Example:
      osai oms countersign ./my-model --public-key publisher.pub --key release.pem --model-id me/my-model
    """  # noqa: D301 (click reads the escape)
    authority, identities = choose_authority(**accepted), [load_key(key_file) for key_file in key_files]
    path, now_s = out or folder / MANIFEST_FILE, int(time.time())
    version = version or next_version(path, model_id)
    verified = _verify(folder, signature, authority, allow_symlinks=allow_symlinks)
    if path_within(folder, path) in verified.digests:
        raise SetupError(
            f"the OMS signature covers {path}, so a new one would break it; choose another place with --out"
        )
    card = listed_licence(folder, verified.digests)
    licence = licence or card.name or "unknown"
    with hashing_progress("hashing", checkpoint_bytes(folder)) as on_bytes:
        manifest = build_manifest(
            folder,
            model_id,
            version,
            licence,
            on_bytes,
            created_s=now_s,
            not_after_s=now_s + valid_days * DAY_S if valid_days else None,
            licence_url=(card.url if licence == card.name else "") if licence_url is None else licence_url,
            licence_must_accept=licence_must_accept,
        )
    with hashing_progress("comparing", manifest.num_bytes()) as on_bytes:
        prove_same_bytes(folder, verified.digests, manifest, on_bytes)
    write_whole(path, sign(manifest, *identities))
    click.echo(f"verified: {_said_of(verified)}")
    click.echo(
        f"{path}: {model_id} version {version}, licence {manifest.licence}, {len(manifest.files)} files and "
        f"{len(manifest.tensors)} tensors of the same bytes, signed by "
        f"{', '.join(identity.public_key.hex() for identity in identities)}"
    )


@oms_group.command("sign")
@_FOLDER
@click.option("--key", "key_file", type=_FILE, required=True, help="Private key: P-256, P-384 or P-521, in PEM form.")
@click.option("--certificate", type=_FILE, help="The key's signing certificate, which the signature will carry.")
@click.option("--certificate-chain", "chain", type=_FILE, multiple=True, help="Intermediates to carry too.")
@click.option("--out", type=_FILE, help=f"Default: DIR/{SIGNATURE_FILE}.")
@_LINKS
def sign_command(
    *,
    folder: Path,
    key_file: Path,
    certificate: Path | None,
    chain: tuple[Path, ...],
    out: Path | None,
    allow_symlinks: bool,
) -> None:
    """Sign every file of DIR, beside git's own, the signature and osai-manifest.json.

    \b
    Examples:
      osai oms sign ./my-model --key ec.pem
      osai oms sign ./my-model --key ec.pem --certificate signer.pem --certificate-chain intermediate.pem
    """  # noqa: D301 (click reads the escape)
    if chain and certificate is None:
        raise SetupError("--certificate-chain goes with --certificate: name the signing certificate too")
    path = out or folder / SIGNATURE_FILE
    key = OmsKey(private_key=key_file, certificate=certificate, chain=chain)
    write_whole(path, sign_oms(folder, path, key, allow_symlinks=allow_symlinks))
    click.echo(f"{path}: signed with {certificate or key_file}")


def _verify(folder: Path, signature: Path | None, authority: Authority, *, allow_symlinks: bool) -> VerifiedFolder:
    return verify_oms(
        folder, signature or folder / SIGNATURE_FILE, authority, now=datetime.now(UTC), allow_symlinks=allow_symlinks
    )


def _said_of(verified: VerifiedFolder) -> str:
    said = f"{len(verified.digests)} files are what was signed"
    if not verified.left_out:
        return said
    named, more = verified.left_out[:NUM_NAMED], len(verified.left_out) - NUM_NAMED
    return f"{said}; NOT signed: {', '.join(map(repr, named))}" + (f" and {more} more" if more > 0 else "")
