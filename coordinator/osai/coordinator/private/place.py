"""A coordinator's place in a private swarm: as the holder of its authority, or as a member like others."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable

from osai.coordinator.config import CoordinatorConfig
from osai.coordinator.private.service import AdmissionService
from osai.core.admission.authority import leaf_life_s
from osai.core.admission.credentials import Credentials
from osai.core.admission.gate import Gate
from osai.core.admission.roles import Role
from osai.core.admission.tls_key import TlsKey
from osai.core.errors import OsaiError, SetupError
from osai.core.identity import Identity
from osai.core.member_files import MemberFiles
from osai.core.member_tls import MemberTls
from osai.core.private_member import PrivateMember, join_private
from osai.core.swarm_folder import SwarmFolder

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between looks into the swarm's folder: `osai swarm revoke` acts within so long, and what news takes

OnRevocations = Callable[[bytes], Awaitable[None]]


class PrivatePlace:
    """What a coordinator needs to serve a private swarm.

    Args:
        tls: what it shows.
        authority: the swarm's folder, where this coordinator holds it.
        member: of a coordinator that has joined by a token.
        identity: of the coordinator.
        address: HOST:PORT of the coordinator that holds the authority, where it is another.
    """

    def __init__(
        self,
        tls: MemberTls,
        identity: Identity,
        *,
        authority: SwarmFolder | None = None,
        member: PrivateMember | None = None,
        address: str = "",
    ) -> None:
        self.tls = tls
        self._identity = identity
        self._address = address
        self._authority = authority
        self._member = member
        self.admission = AdmissionService(tls, authority)

    @classmethod
    def holding(cls, authority: SwarmFolder, identity: Identity, files: MemberFiles) -> "PrivatePlace":
        """The place of the coordinator that holds the swarm's folder: it lets itself in, and keeps its certificate.

        Raises:
            SetupError: if the folder can't be read.
            TrustError: if its files are damaged.
        """
        sealed, now_s = authority.refresh(time.time()), time.time()
        gate = Gate.opened(authority.authority().anchor, sealed, now_s)
        credentials = _issued(authority, identity, now_s)
        files.save(credentials, sealed)  # for `osai-coordinator health`
        tls = MemberTls(credentials, gate)
        it = cls(tls, identity, authority=authority)
        it.admission.sealed = sealed
        return it

    @classmethod
    def joined(cls, member: PrivateMember, identity: Identity, address: str) -> "PrivatePlace":
        """The place of one that was let in by the coordinator at `address`."""
        it = cls(member.tls, identity, member=member, address=address)
        it.admission.sealed = member.sealed
        return it

    async def run(self, on_revocations: OnRevocations) -> None:
        """Keep the certificate and the revocation list fresh, until cancelled; each newer list is handed on."""
        async with asyncio.TaskGroup() as tasks:
            if self._member is not None:
                tasks.create_task(self._member.keep(lambda: self._address, ask_revocations=True))
            while True:
                try:
                    await self._look(on_revocations)
                except OsaiError as e:
                    log.error("the swarm's folder can't be used: %s", e)  # noqa: TRY400 - it says all
                await asyncio.sleep(LOOK_S)

    async def _look(self, on_revocations: OnRevocations) -> None:
        now_s = time.time()
        if self._authority is not None:
            sealed = await asyncio.to_thread(self._authority.refresh, now_s)
        else:
            sealed = self._member.sealed if self._member is not None else b""
        if sealed != self.admission.sealed:
            self.admission.sealed = sealed
            self.tls.revoke(sealed)
            await on_revocations(sealed)
        if self._authority is not None and now_s >= self.tls.credentials.renew_at_s:
            self.tls.renew(await asyncio.to_thread(_issued, self._authority, self._identity, now_s))


async def find_place(config: CoordinatorConfig, identity: Identity) -> PrivatePlace | None:
    """This coordinator's place in a private swarm; None in a public one.

    Raises:
        OsaiError: why it has none, though it was told of one.
    """
    if config.swarm_dir is not None:
        return PrivatePlace.holding(SwarmFolder(config.swarm_dir), identity, MemberFiles.of(config.state_dir))
    if not config.authority:
        return None
    member = await join_private(
        config.state_dir, identity, Role.COORDINATOR, address=config.authority, token=config.token
    )
    if member is None:
        raise SetupError(
            "this coordinator has not joined the private swarm yet: give --token, from `osai swarm invite`"
        )
    return PrivatePlace.joined(member, identity, config.authority)


def _issued(folder: SwarmFolder, identity: Identity, now_s: float) -> Credentials:
    authority, key, me = folder.authority(), TlsKey.generate(), identity.node_id
    life_s = folder.leaf_life_s or leaf_life_s(Role.COORDINATOR)
    leaf = authority.issue(Role.COORDINATOR, me, key.public_key, now_s=now_s, random=secrets.token_bytes, life_s=life_s)
    return Credentials.read(leaf, key, authority.anchor, role=Role.COORDINATOR, member_id=me, now_s=now_s)
