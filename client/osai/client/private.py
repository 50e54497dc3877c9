"""A client's places in private swarms: one folder for each swarm, with the addresses at which it is known."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from osai.core.private_member import PrivateMember

ADDRESSES_FILE = "addresses"  # of the swarm's coordinators, one a line, the latest first
MAX_ADDRESSES = 64  # remembered of a swarm
MAX_ADDRESSES_BYTES = MAX_ADDRESSES * 300


def swarms_folder() -> Path:
    """Where a client keeps its places: a folder by the id of each swarm."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "osai" / "client" / "swarms"


def find_member(addresses: Iterable[str]) -> "PrivateMember | None":
    """This client's place in the swarm that the first of these coordinators is known to be of; None: in a public one.

    Raises:
        SetupError: if the files can't be read.
        TrustError: if the certificate has ended: join anew.
    """
    known = {address: folder for folder in _joined() for address in _addresses(folder)}
    joined = next((known[address] for address in addresses if address in known), None)
    if joined is None:
        return None
    # these take a tenth of a second to import: only for those who are in a private swarm
    from osai.core.admission.roles import Role  # noqa: PLC0415
    from osai.core.private_member import kept_member  # noqa: PLC0415
    from osai.core.state import load_identity  # noqa: PLC0415

    return kept_member(joined, load_identity(joined), Role.CLIENT)


async def join_swarm(address: str, token: str) -> "PrivateMember":
    """Become a client of the private swarm of the coordinator at `address`, or be known at that address too.

    Raises:
        UnavailableError: if the coordinator can't be reached.
        TrustError: if it does not take the token, or is of another swarm than that.
        SetupError: if the files can't be read or written.
    """
    from osai.core.admission import JoinToken  # noqa: PLC0415 (as above)
    from osai.core.admission.roles import Role  # noqa: PLC0415
    from osai.core.private_member import join_anew, join_private, kept_member  # noqa: PLC0415
    from osai.core.state import load_identity  # noqa: PLC0415

    asked = JoinToken.parse(token)
    known = _folder_of(asked.authority)
    # the same token again is of use to the same identity alone (S12): it is kept until the swarm's id is known
    folder = known or swarms_folder() / f".joining-{asked.token_id}"
    identity = load_identity(folder)
    if known is not None and address in _addresses(known):
        kept = await join_private(folder, identity, Role.CLIENT, address=address, token=token)
    else:
        kept = None
    member = kept or await join_anew(folder, identity, Role.CLIENT, address=address, token=token)
    if known is None:
        import shutil  # noqa: PLC0415 - a tenth of a client's import

        shutil.rmtree(folder_of(member), ignore_errors=True)  # of the same key, under another certificate
        folder.rename(folder_of(member))
        member = kept_member(folder_of(member), identity, Role.CLIENT)  # which writes to where it is now
    note_addresses(member, [address])
    return member


def folder_of(member: "PrivateMember") -> Path:
    """Where a client keeps its place in that swarm."""
    return swarms_folder() / member.tls.credentials.anchor.swarm_id


def note_addresses(member: "PrivateMember", addresses: Iterable[str]) -> None:
    """These are coordinators of the member's swarm, as one of them said, or as they were seen to be.

    Raises:
        SetupError: if that can't be written.
    """
    own = folder_of(member)
    told = dict.fromkeys(addresses)
    for folder in _joined():
        before = _addresses(folder)
        after = [*told, *before] if folder == own else [address for address in before if address not in told]
        after = list(dict.fromkeys(after))[:MAX_ADDRESSES]
        if set(after) != set(before):
            _write(folder, after)


def _write(folder: Path, addresses: Iterable[str]) -> None:
    from osai.core.errors import SetupError  # noqa: PLC0415
    from osai.core.secret_files import write_secret  # noqa: PLC0415

    try:
        write_secret(folder / ADDRESSES_FILE, "\n".join(addresses).encode())
    except OSError as e:
        raise SetupError(f"can't write into {folder} ({e.strerror}): set XDG_STATE_HOME to another folder") from e


def _joined() -> list[Path]:
    """The folder of each swarm that this client is in."""
    return sorted(path.parent for path in swarms_folder().glob("[!.]*/swarm"))


def _addresses(folder: Path) -> tuple[str, ...]:
    try:
        data = (folder / ADDRESSES_FILE).read_bytes()[:MAX_ADDRESSES_BYTES]
    except OSError:
        return ()
    return tuple(data.decode(errors="replace").split("\n"))


def _folder_of(authority: bytes) -> Path | None:
    """The folder of the swarm whose authority's certificate has that digest; None where this client is not in it."""
    from osai.core.admission.authority import Anchor  # noqa: PLC0415
    from osai.core.errors import OsaiError  # noqa: PLC0415
    from osai.core.member_files import AUTHORITY_FILE, MAX_FILE_BYTES  # noqa: PLC0415
    from osai.core.secret_files import read_bounded  # noqa: PLC0415

    for folder in _joined():
        try:
            if Anchor.read(read_bounded(folder / "swarm" / AUTHORITY_FILE, MAX_FILE_BYTES, "")).digest == authority:
                return folder
        except OsaiError:  # half a folder is of no use, and in nobody's way
            continue
    return None
