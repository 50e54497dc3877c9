"""A member's certificate as its connections use it: gRPC's and asyncio's credentials, and who a peer is.

Credentials are renewed in place: whoever dials or accepts a connection from then on shows the new certificate. Revoked
peers are refused at once, and the connections that they have are ended by those who subscribe.
"""

import logging
import ssl
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from osai.core.admission.credentials import Credentials
from osai.core.admission.gate import Gate
from osai.core.admission.peer import Peer
from osai.core.admission.roles import Role, server_name
from osai.core.errors import UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

MAX_KNOWN = 4096  # certificates that need not be checked anew: a record of each node is read every two seconds

OnRevoked = Callable[[], None]


class MemberTls:
    """What this member shows, and whom it believes.

    Args:
        credentials: of this member.
        gate: judges peers, by the newest revocation list that this member has.
        clock_s: seconds since 1970.
    """

    def __init__(self, credentials: Credentials, gate: Gate, clock_s: Callable[[], float] = time.time) -> None:
        self._gate = gate
        self._clock_s = clock_s
        self._subscribers: list[OnRevoked] = []
        self._known: dict[bytes, Peer] = {}
        self.renew(credentials)

    @property
    def me(self) -> Peer:
        """This member, as others see it."""
        return self.credentials.me

    def renew(self, credentials: Credentials) -> None:
        """Use other credentials from now on."""
        self.credentials = credentials
        chain, key = credentials.leaf_pem, credentials.key.pem
        root = credentials.anchor.pem
        self._channel = grpc.ssl_channel_credentials(root, key, chain)
        self._certificates = grpc.ssl_server_certificate_configuration([(key, chain)], root)
        self._contexts = {side: _context(credentials, is_server=side) for side in (False, True)}

    def revoke(self, sealed: bytes) -> bool:
        """Take in a revocation list that has come from anybody; whether it is newer than the one known.

        Raises:
            TrustError: if it is not to be believed, or has ended.
        """
        before, self._gate = self._gate, self._gate.updated(sealed, self._clock_s())
        if self._gate is before:
            return False
        for told in list(self._subscribers):
            told()
        return True

    @contextmanager
    def subscribed(self, on_revoked: OnRevoked) -> "Iterator[None]":
        """Be told of each new revocation list for as long as the block runs."""
        self._subscribers.append(on_revoked)
        try:
            yield
        finally:
            self._subscribers.remove(on_revoked)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a channel to another member; see `dial_options` for which."""
        return self._channel

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a server that other members dial: a certificate of this swarm is demanded of each."""
        return grpc.dynamic_ssl_server_credentials(
            self._certificates, lambda: self._certificates, require_client_authentication=True
        )

    def joiner_credentials(self) -> grpc.ServerCredentials:
        """For a server that joiners dial, who have no certificate yet."""
        return grpc.dynamic_ssl_server_credentials(
            self._certificates, lambda: self._certificates, require_client_authentication=False
        )

    def dial_options(self, role: Role, member_id: str = "") -> tuple[tuple[str, Any], ...]:
        """Channel options by which gRPC accepts a server of that role, and with an id that member alone (S6)."""
        return (("grpc.ssl_target_name_override", server_name(role, member_id)),)

    def context(self, *, is_server: bool) -> ssl.SSLContext:
        """For asyncio's own connections: mutual, TLS 1.3."""
        return self._contexts[is_server]

    def peer_of(self, certificate: bytes) -> Peer:
        """The member that a certificate is of, PEM or DER (S16).

        Raises:
            TrustError: if it is none of this swarm's, is over, or was revoked.
        """
        known = self._known.get(certificate)
        if known is not None and self._clock_s() < known.not_after_s:  # its signature was checked
            self.check(known)  # the rest changes with time
            return known
        peer = self._gate.admit(certificate, self._clock_s())
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[certificate] = peer
        return peer

    def is_revoked(self, member_id: str) -> bool:
        """Whether a member is out, whatever certificate it has."""
        return member_id in self._gate.revocations.members

    @property
    def revocations_version(self) -> int:
        """Of the newest list known."""
        return self._gate.revocations.version

    def check(self, peer: Peer) -> None:
        """Judge a peer again whose connection lasts (S16).

        Raises:
            TrustError: if it is to be heard no longer.
        """
        self._gate.check(peer, self._clock_s())


def peer_certificate(context: Any) -> bytes:  # noqa: ANN401 - a servicer's context
    """The certificate that a gRPC call's peer showed, PEM.

    Raises:
        UnauthenticatedError: if it showed none.
    """
    shown = context.auth_context().get("x509_pem_cert", ())
    if not shown:
        raise UnauthenticatedError("this swarm is private: a member's certificate is needed; join with a token")
    return bytes(shown[0])


def _context(credentials: Credentials, *, is_server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=credentials.anchor.pem.decode())
    with tempfile.TemporaryDirectory(prefix="osai-") as folder:  # 0700; the module ssl reads files alone
        file = Path(folder) / "member.pem"
        file.write_bytes(credentials.key.pem + credentials.leaf_pem)
        context.load_cert_chain(file)
    return context
