"""A member's place in a private swarm: got with a token, kept on disk, renewed in time."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from osai.core.admission.roles import Role
from osai.core.enrolment import enrol, newer_revocations, renew
from osai.core.errors import OsaiError, TrustError
from osai.core.identity import Identity
from osai.core.member_files import MemberFiles
from osai.core.member_tls import MemberTls
from osai.core.state import load_identity

log = logging.getLogger(__name__)

LOOK_S = 2.0  # between looks whether the certificate is to be renewed, or the list has a newer version
RETRY_S = 30.0  # after a renewal that failed: a third of the certificate's life is left for it


class PrivateMember:
    """This member of a private swarm. Build it with `join_private`.

    Args:
        tls: what it shows.
        files: where that is kept.
        identity: signs its requests.
        sealed: the newest revocation list that has come.
    """

    def __init__(self, tls: MemberTls, files: MemberFiles, identity: Identity, sealed: bytes) -> None:
        self.tls = tls
        self.sealed = sealed
        self._files = files
        self._identity = identity

    def revoke(self, sealed: bytes) -> None:
        """Take in a revocation list that has come; what is not to be believed is logged and dropped."""
        try:
            if self.tls.revoke(sealed):
                log.info("revocation list %d has come", self.tls.revocations_version)
                self.sealed = sealed
                self._files.save_revocations(sealed)
        except OsaiError as e:
            log.warning("a revocation list was dropped: %s", e)

    async def keep(self, address: Callable[[], str | None], *, ask_revocations: bool = False) -> None:
        """Renew the certificate whenever it is due, until cancelled.

        Args:
            address: of a coordinator that may be asked; None while there is none.
            ask_revocations: ask for the newest list too; nodes are told it by their coordinator.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            at = address()
            if at is None:
                continue
            try:
                if ask_revocations and (sealed := await newer_revocations(at, self.tls)):
                    self.revoke(sealed)
                await self.renew_if_due(at)
            except OsaiError as e:
                log.warning("the certificate or the revocation list could not be renewed at %s: %s", at, e)
                await asyncio.sleep(0 if ask_revocations else RETRY_S)

    @property
    def is_due(self) -> bool:
        """Whether the certificate is to be renewed."""
        return time.time() >= self.tls.credentials.renew_at_s

    async def renew_if_due(self, address: str) -> None:
        """Get a new certificate from the coordinator at `address`, where the present one is to be renewed.

        Raises:
            OsaiError: if that does not work; the present one may be good for a while.
        """
        if not self.is_due:
            return
        credentials, sealed = await renew(address, self.tls, self._identity, time.time())
        self._files.save(credentials, sealed)
        self.tls.renew(credentials)
        self.revoke(sealed)
        log.info("the certificate was renewed, until %s", time.ctime(credentials.me.not_after_s))


async def join_private(
    state_dir: Path, identity: Identity, role: Role, *, address: str, token: str
) -> PrivateMember | None:
    """This member's place, from its state folder or by a token; None where it has neither: the swarm is a public one.

    A certificate that is still good is used, and the token left alone: the same command starts a member again.

    Raises:
        UnavailableError: if the coordinator can't be reached.
        TrustError: if it does not take the token, or there is no token and the certificate has ended.
        SetupError: if the files can't be read or written.
    """
    files = MemberFiles.of(state_dir)
    if files.exist():
        try:
            return kept_member(state_dir, identity, role)
        except TrustError as e:
            if not token:
                raise
            log.info("joining anew: %s", e)
    if not token:
        return None
    return await join_anew(state_dir, identity, role, address=address, token=token)


async def join_anew(state_dir: Path, identity: Identity, role: Role, *, address: str, token: str) -> PrivateMember:
    """This member's place, by a token, whatever its state folder has. Errors as of `join_private`."""
    MemberFiles.of(state_dir).save(*await enrol(address, token, identity, role, time.time()))
    return kept_member(state_dir, identity, role)


def kept_tls(state_dir: Path, role: Role) -> MemberTls | None:
    """What a member shows, as its state folder has it; None in a public swarm. Errors as of `kept_member`."""
    if not MemberFiles.of(state_dir).exist():
        return None
    return kept_member(state_dir, load_identity(state_dir), role).tls


def kept_member(state_dir: Path, identity: Identity, role: Role) -> PrivateMember:
    """This member's place, as its state folder has it.

    Raises:
        TrustError: if the certificate has ended, or is another's.
        SetupError: if the files can't be read.
    """
    files = MemberFiles.of(state_dir)
    try:
        credentials, gate = files.load(role, identity.node_id, time.time())
    except TrustError as e:
        raise TrustError(f"{files.folder}: {e.message}; join anew with --token", subject=e.subject) from e
    return PrivateMember(MemberTls(credentials, gate), files, identity, files.sealed_revocations())
