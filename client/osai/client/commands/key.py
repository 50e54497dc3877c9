"""`osai key`: the keys that publishers sign manifests with."""

import os
from pathlib import Path

import click

from osai.client.publisher_keys import create_key
from osai.core.reporting import ReportingGroup


def keys_folder() -> Path:
    """Where keys lie unless told otherwise."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "osai" / "keys"


@click.group("key", cls=ReportingGroup)
def key_group() -> None:
    """Make the keys that publishers sign models with."""


@key_group.command("create")
@click.argument("name", default="publisher")
@click.option("--out", type=click.Path(path_type=Path), help="File of the private key, in place of NAME.pem.")
def create(name: str, out: Path | None) -> None:
    """Make an Ed25519 key: NAME.pem, which is secret, and NAME.pub, which others trust.

    They are written to ~/.config/osai/keys unless --out names a file. Nothing is overwritten.

    \b
    Examples:
      osai key create
      osai key create --out release.pem
    """  # noqa: D301 (click reads the escape)
    path = out or keys_folder() / f"{name}.pem"
    identity, public = create_key(path)
    click.echo(f"private key: {path} (keep it secret)")
    click.echo(f"public key:  {public}")
    click.echo(f"             {identity.public_key.hex()}")
