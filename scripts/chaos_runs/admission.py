"""How members and clients of a private chaos swarm get in."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from osai.client.private import join_swarm, note_addresses
from osai.core.admission import Role
from osai.core.private_member import PrivateMember
from osai.core.swarm_folder import SwarmFolder

TOKEN_LIFE_S = 3600


@dataclass(slots=True)
class Admission:
    """The authority of one swarm, and this process's place in it as a client."""

    authority: SwarmFolder
    client: PrivateMember | None = None

    @classmethod
    def of(cls, folder: Path) -> Self:
        """A new swarm, in a folder of its own; this process's clients keep their certificates beside it."""
        os.environ["XDG_STATE_HOME"] = str(folder / "clients")
        return cls(SwarmFolder.create(folder / "authority", time.time()))

    def options(self, role: Role, first_coordinator: str) -> Sequence[str]:
        """Of a member's command line; the first coordinator holds the authority."""
        if role is Role.COORDINATOR and not first_coordinator:
            return ("--swarm", str(self.authority.folder))
        where = ("--authority", first_coordinator) if role is Role.COORDINATOR else ()
        return (*where, "--token", self._token(role))

    async def join_client(self, address: str) -> None:
        """Let this process's clients use the coordinator at `address`: one of the first coordinator's swarm."""
        if self.client is None:
            self.client = await join_swarm(address, self._token(Role.CLIENT))
        else:
            note_addresses(self.client, [address])

    def _token(self, role: Role) -> str:
        return self.authority.invite(role, now_s=time.time(), life_s=TOKEN_LIFE_S).text
