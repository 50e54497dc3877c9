"""`osai trust`: the lists of keys by which publishers are known, and what they revoke."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click

from osai.client.commands.manifest_file import write_whole
from osai.client.commands.trust_documents import digest_of, read_key_list, read_public_key
from osai.client.publisher_keys import load_key
from osai.core.errors import SetupError
from osai.core.identity import Identity
from osai.core.manifest import KEYS_FILE, KeyList, SignedKeyList, parse_key_list, sign_key_list
from osai.core.manifest.key_list import KnownList
from osai.core.manifest.key_list_file import add_key_list_signature
from osai.core.manifest.rotation import current_lists, num_signed
from osai.core.manifest.times import utc
from osai.core.reporting import ReportingGroup

DAY_S = 86_400
_FILE = click.Path(path_type=Path, dir_okay=False)
_EXISTING = click.Path(path_type=Path, dir_okay=False, exists=True)
_KEY = click.option("--key", "key_files", type=_FILE, multiple=True, required=True,
                    help="Private key that signs the list. Repeatable.")  # fmt: skip
_DAYS = click.option("--valid-days", type=click.IntRange(min=1), help="Days until the list must be renewed.")
_MODELS = click.option("--model", "models", multiple=True, help="Model id, ORG/* or *. Repeatable.")
_THRESHOLD = click.option("--threshold", type=click.IntRange(min=1), help="Signatures that a manifest needs.")


@click.group("trust", cls=ReportingGroup)
def trust_group() -> None:
    """Keep the list of keys by which a publisher is known, and revoke keys and manifests."""


@trust_group.command("create")
@click.argument("publisher")
@_KEY
@click.option("--add", "added", type=_EXISTING, multiple=True, help="Public key of a further member. Repeatable.")
@_THRESHOLD
@_MODELS
@_DAYS
@click.option("--out", type=_FILE, default=Path(KEYS_FILE), show_default=True)
def create(
    publisher: str, key_files: tuple[Path, ...], added: tuple[Path, ...], threshold: int | None,
    models: tuple[str, ...], valid_days: int | None, out: Path,
) -> None:  # fmt: skip
    """Make the first key list of PUBLISHER: the --key's and --add's, which others trust with --trust.

    \b
    Example:
      osai trust create acme --key a.pem --key b.pem --add c.pub --threshold 2 --model 'acme/*' --valid-days 365
    """  # noqa: D301 (click reads the escape)
    if out.exists():
        raise SetupError(f"{out} exists: make its next version with `osai trust rotate`, or name another --out")
    if not models:
        raise SetupError("name what the publisher may vouch for with --model: model ids, 'ORG/*' or '*'")
    identities = [load_key(key_file) for key_file in key_files]
    keys = _unique([*(identity.public_key for identity in identities), *map(read_public_key, added)])
    listed = KeyList(
        publisher=publisher, version=1, keys=keys, threshold=threshold or 1, models=models,
        not_after_s=_not_after_s(valid_days, None),
    )  # fmt: skip
    _write(out, sign_key_list(listed, identities), None)


@trust_group.command("rotate")
@click.argument("file", type=_EXISTING)
@_KEY
@click.option("--add", "added", type=_EXISTING, multiple=True, help="Public key to add. Repeatable.")
@click.option("--remove", "removed", type=_EXISTING, multiple=True, help="Public key to take away. Repeatable.")
@_THRESHOLD
@_MODELS
@_DAYS
def rotate(
    file: Path, key_files: tuple[Path, ...], added: tuple[Path, ...], removed: tuple[Path, ...],
    threshold: int | None, models: tuple[str, ...], valid_days: int | None,
) -> None:  # fmt: skip
    """Make the next version of the key list FILE: other keys, another threshold, other models, a later end.

    What is not named stays. As many of the old keys must sign as the old list requires, and of the new ones as the
    new list does: those whose private keys are elsewhere do so with `osai trust sign`.

    \b
    Examples:
      osai trust rotate osai-keys.json --key a.pem --key b.pem --remove b.pub --add d.pub
      osai trust rotate osai-keys.json --key a.pem --key b.pem --valid-days 365
    """  # noqa: D301 (click reads the escape)
    before = read_key_list(file)
    gone = {read_public_key(path) for path in removed}
    listed = replace(
        before.listed,
        keys=_unique([*(key for key in before.listed.keys if key not in gone), *map(read_public_key, added)]),
        threshold=threshold or before.listed.threshold,
        models=models or before.listed.models,
        not_after_s=_not_after_s(valid_days, before.listed.not_after_s),
    )
    _write_next(file, before, listed, key_files)


@trust_group.command("revoke")
@click.argument("file", type=_EXISTING)
@_KEY
@click.option("--public-key", "revoked_keys", type=_EXISTING, multiple=True, help="Public key. Repeatable.")
@click.option("--manifest", "manifests", multiple=True, help="Manifest's file, or its digest. Repeatable.")
def revoke(file: Path, key_files: tuple[Path, ...], revoked_keys: tuple[Path, ...], manifests: tuple[str, ...]) -> None:
    """Make the next version of the key list FILE, which revokes keys and manifests.

    A revoked key is taken from the list too: where too few would be left, add others with `osai trust rotate` first.

    \b
    Examples:
      osai trust revoke osai-keys.json --key a.pem --key b.pem --public-key c.pub
      osai trust revoke osai-keys.json --key a.pem --key b.pem --manifest ./my-model/osai-manifest.json
    """  # noqa: D301 (click reads the escape)
    if not revoked_keys and not manifests:
        raise SetupError("name what is revoked with --public-key or --manifest")
    before = read_key_list(file)
    gone = tuple(map(read_public_key, revoked_keys))
    listed = replace(
        before.listed,
        keys=tuple(key for key in before.listed.keys if key not in gone),
        revoked_keys=_unique([*before.listed.revoked_keys, *gone]),
        revoked_manifests=_unique([*before.listed.revoked_manifests, *map(digest_of, manifests)]),
    )
    _write_next(file, before, listed, key_files)


@trust_group.command("sign")
@click.argument("file", type=_EXISTING)
@click.option("--key", "key_file", type=_FILE, required=True, help="Private key that signs the list.")
def sign(file: Path, key_file: Path) -> None:
    """Add a signature to the key list FILE, which stays as it is otherwise. Look at it with `osai trust show` first.

    \b
    Example:
      osai trust sign osai-keys.json --key b.pem
    """  # noqa: D301 (click reads the escape)
    _write(file, add_key_list_signature(read_key_list(file), load_key(key_file)), None)


@trust_group.command("show")
@click.argument("file", type=_EXISTING)
def show(file: Path) -> None:
    """Say what the key list FILE states, and which of its own keys have signed it.

    \b
    Example:
      osai trust show osai-keys.json
    """  # noqa: D301 (click reads the escape)
    signed = read_key_list(file)
    listed = signed.listed
    rows = [
        ("publisher", listed.publisher),
        ("version", str(listed.version)),
        ("expires", "never" if listed.not_after_s is None else utc(listed.not_after_s)),
        ("models", ", ".join(listed.models)),
        ("threshold", f"{listed.threshold} of {len(listed.keys)} keys"),
        *(("key", key.hex() + (", has signed" if num_signed(signed, (key,)) else "")) for key in listed.keys),
        *(("revoked", f"key {key.hex()}") for key in listed.revoked_keys),
        *(("revoked", f"manifest {digest.hex()}") for digest in listed.revoked_manifests),
        ("signed by", f"{num_signed(signed, listed.keys)} of the {listed.threshold} keys that it requires"),
    ]
    for name, value in rows:
        click.echo(f"{name:<10} {value}")


def _unique(values: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(values))


def _not_after_s(valid_days: int | None, otherwise: int | None) -> int | None:
    return int(time.time()) + valid_days * DAY_S if valid_days else otherwise


def _write_next(file: Path, before: SignedKeyList, listed: KeyList, key_files: tuple[Path, ...]) -> None:
    current_lists([before], {})  # nothing follows a list that is not signed itself
    identities: list[Identity] = [load_key(key_file) for key_file in key_files]
    data = sign_key_list(replace(listed, version=before.listed.version + 1), identities)
    _write(file, data, before)


def _write(file: Path, data: bytes, before: SignedKeyList | None) -> None:
    """Write it, and say what it still needs to be believed."""
    signed = parse_key_list(data)
    write_whole(file, data)
    listed = signed.listed
    click.echo(f"{file}: version {listed.version} of the key list of {listed.publisher}, {listed.threshold} of "
               f"{len(listed.keys)} keys")  # fmt: skip
    needs = {"its": (listed.keys, listed.threshold)}
    if before is not None:
        known = KnownList.of(before)
        needs[f"version {known.version}'s"] = (known.keys, known.threshold)
    for whose, (keys, threshold) in needs.items():
        if (missing := threshold - num_signed(signed, keys)) > 0:
            click.echo(f"{missing} more of {whose} keys must sign it before it is believed: `osai trust sign`")
