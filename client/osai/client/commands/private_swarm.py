"""`osai swarm`: make a private swarm, invite members, revoke them, join as a client."""

import asyncio
import re
import time
from pathlib import Path

import click

from osai.client.private import folder_of, join_swarm
from osai.core.admission.roles import Role
from osai.core.admission.token_book import TOKEN_LIFE_S
from osai.core.errors import SetupError
from osai.core.reporting import ReportingGroup
from osai.core.swarm_folder import SwarmFolder

DEFAULT_SWARM = Path("~/.config/osai/swarm")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_COMMANDS = {
    Role.NODE: "osai-node join {address} --token {token}",
    Role.COORDINATOR: "osai-coordinator serve --authority {address} --token {token}",
    Role.CLIENT: "osai swarm join {address} --token {token}",
}

_swarm_option = click.option(
    "--swarm",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_SWARM,
    show_default=True,
    help="The swarm's folder.",
)


class Duration(click.ParamType[int]):
    """Seconds, from `90s`, `30m`, `24h` or `7d`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,9})([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is no duration; write 90s, 30m, 24h or 7d", param, ctx)
        return int(match[1]) * _UNITS_S[match[2]]


@click.group("swarm", cls=ReportingGroup)
def swarm_group() -> None:
    """Make a private swarm, and say who is in it."""


@swarm_group.command("create")
@_swarm_option
def create(folder: Path) -> None:
    """Make a private swarm's authority: a folder with its certificate and its key, which is secret.

    \b
    Example:
      osai swarm create
      osai-coordinator serve --swarm ~/.config/osai/swarm
    """  # noqa: D301 (click reads the escape)
    made = SwarmFolder.create(folder.expanduser(), time.time())
    click.echo(f"swarm {made.authority().anchor.swarm_id}, in {folder} (keep it secret)")
    click.echo(f"next: osai-coordinator serve --swarm {folder}")


@swarm_group.command("invite")
@_swarm_option
@click.option("--role", type=click.Choice([str(role) for role in Role]), default=str(Role.NODE), show_default=True,
              help="What the new member will be.")  # fmt: skip
@click.option("--ttl", "life_s", type=Duration(), default=TOKEN_LIFE_S, show_default="24h",
              help="How long the token is good, as 30m or 24h.")  # fmt: skip
@click.option("--address", default="HOST:PORT", help="Of the coordinator, for the command that is printed.")
def invite(folder: Path, role: str, life_s: int, address: str) -> None:
    """Print a token that lets one member in, and the command that uses it.

    \b
    Example:
      osai swarm invite --role node --ttl 24h --address coordinator.example:7070
    """  # noqa: D301 (click reads the escape)
    token = SwarmFolder(folder.expanduser()).invite(Role(role), now_s=time.time(), life_s=life_s)
    click.echo(token.text)
    click.echo(_COMMANDS[Role(role)].format(address=address, token=token.text), err=True)


@swarm_group.command("join")
@click.argument("address", metavar="HOST:PORT")
@click.option("--token", required=True, help="From `osai swarm invite --role client`. Good once.")
def join(address: str, token: str) -> None:
    """Become a client of the private swarm of the coordinator at HOST:PORT; commands that name it use the membership.

    \b
    Example:
      osai swarm join coordinator.example:7070 --token osai1....
      osai chat --coordinator coordinator.example:7070
    """  # noqa: D301 (click reads the escape)
    member = asyncio.run(join_swarm(address, token))
    swarm_id = member.tls.credentials.anchor.swarm_id
    click.echo(f"client {member.tls.me.member_id} of swarm {swarm_id}, in {folder_of(member)}")


@swarm_group.command("revoke")
@_swarm_option
@click.argument("member_id", metavar="ID")
def revoke(folder: Path, member_id: str) -> None:
    """Let a member in no more: its open connections end within seconds.

    \b
    Example:
      osai swarm revoke 0123456789abcdef0123456789abcdef
    """  # noqa: D301 (click reads the escape)
    revoked = SwarmFolder(folder.expanduser()).revoke(member_id, time.time())
    click.echo(f"revoked {member_id}: list {revoked.version}, {len(revoked.members)} members in all")


@swarm_group.command("restore")
@_swarm_option
@click.argument("member_id", metavar="ID")
def restore(folder: Path, member_id: str) -> None:
    """Let a revoked member in again."""
    SwarmFolder(folder.expanduser()).restore(member_id, time.time())
    click.echo(f"restored {member_id}")


@swarm_group.command("show")
@_swarm_option
def show(folder: Path) -> None:
    """Say which swarm this is, and who is revoked."""
    swarm = SwarmFolder(folder.expanduser())
    if not swarm.folder.exists():
        raise SetupError(f"there is no swarm in {folder}: make one with `osai swarm create`")
    revocations = swarm.revocations()
    click.echo(f"swarm    {revocations.swarm_id}")
    for member_id, at_s in sorted(revocations.members.items()):
        click.echo(f"revoked  {member_id} at {time.ctime(at_s)}")
