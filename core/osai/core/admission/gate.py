"""Who gets in: what a member of a private swarm judges every connection by. Pure.

The S numbers are clauses of docs/security.md.
"""

from dataclasses import dataclass, replace
from typing import Self

from osai.core.admission.authority import Anchor
from osai.core.admission.peer import Peer, read_peer
from osai.core.admission.revocation import RevocationList, unseal
from osai.core.errors import ForbiddenError, TrustError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The swarm's anchor, and the newest revocation list that has come."""

    anchor: Anchor
    revocations: RevocationList

    @classmethod
    def opened(cls, anchor: Anchor, sealed: bytes, now_s: float) -> Self:
        """The gate of a member that has got its first list with its certificate.

        Raises:
            TrustError: if the list is not to be believed, or has ended.
        """
        return cls(anchor=anchor, revocations=RevocationList(swarm_id=anchor.swarm_id)).updated(sealed, now_s)

    def admit(self, certificate: bytes, now_s: float) -> Peer:
        """The member that a certificate is of; to be asked for each call, as connections live long (S16).

        Args:
            certificate: that the peer has shown, see `read_peer`.
            now_s: seconds since 1970.

        Raises:
            TrustError: if the certificate is not to be believed, or is revoked, or the list has ended (S15).
        """
        peer = read_peer(certificate, self.anchor, now_s)
        self.check(peer, now_s)
        return peer

    def check(self, peer: Peer, now_s: float) -> None:
        """Judge a peer again whose call lasts: a link, a control stream (S16).

        That its certificate has ended since says nothing against it: it has another by now, or it is revoked.

        Raises:
            TrustError: if the peer is revoked, or the list has ended.
        """
        if not self.revocations.is_current(now_s):  # S15
            raise TrustError("this member's revocation list has ended: it must hear from the swarm's authority first")
        if not self.revocations.accepts(peer):  # S13
            raise ForbiddenError(f"{peer.role} {peer.member_id} is revoked in this swarm", subject=peer.member_id)

    def updated(self, sealed: bytes, now_s: float) -> Self:
        """The gate with a list that has come from anybody; the same gate where that is not newer (S14).

        Raises:
            TrustError: if the list is not to be believed, or has ended.
        """
        theirs = unseal(sealed, self.anchor)
        if not theirs.is_newer_than(self.revocations):
            return self
        if not theirs.is_current(now_s):  # S15
            raise TrustError("the revocation list has ended: is a clock wrong here, or at the coordinator?")
        return replace(self, revocations=theirs)
