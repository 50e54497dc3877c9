"""A client's places in private swarms: one folder for each coordinator that it has joined."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from osai.core.private_member import PrivateMember


def member_folder(address: str) -> Path:
    """Where a client keeps what the swarm of the coordinator at `address` has given it."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "osai" / "client" / quote(address, safe="[]:").replace(":", "_")


def find_member(addresses: Iterable[str]) -> "PrivateMember | None":
    """This client's place in the swarm of the first coordinator that it has joined; None: the swarm is a public one.

    Raises:
        SetupError: if the files can't be read.
        TrustError: if the certificate has ended: join anew.
    """
    joined = next((folder for folder in map(member_folder, addresses) if (folder / "swarm").exists()), None)
    if joined is None:
        return None
    # these take a tenth of a second to import: only for those who are in a private swarm
    from osai.core.admission.roles import Role  # noqa: PLC0415
    from osai.core.private_member import kept_member  # noqa: PLC0415
    from osai.core.state import load_identity  # noqa: PLC0415

    return kept_member(joined, load_identity(joined), Role.CLIENT)
