"""Who is at the other end of a connection, from the certificate that it showed. Pure.

The S numbers are clauses of docs/security.md. TLS has seen to it that the peer has the certificate's key; everything
else is checked here, once for each call, whatever the TLS library has checked already.
"""

from dataclasses import dataclass

from cryptography import x509

from osai.core.admission.authority import Anchor
from osai.core.admission.profile import MALFORMED, check_extensions, leaf_extensions, load, p256_key
from osai.core.admission.roles import Role, parse_member_uri
from osai.core.errors import TrustError


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A member, as its certificate names it.

    Attributes:
        serial: number of the certificate.
        not_after_s: when the certificate ends, in seconds since 1970.
    """

    role: Role
    member_id: str
    serial: int
    not_after_s: int


def read_peer(certificate: bytes, anchor: Anchor, now_s: float) -> Peer:
    """The member that a certificate is of; PEM as gRPC's `x509_pem_cert` has it, or DER as the module ssl gives it.

    Raises:
        TrustError: if it is malformed, of another swarm, not valid now, or not exactly as this swarm's are issued (S7).
    """
    leaf = load(certificate)
    anchor.check_issued(leaf)
    try:
        return _read(leaf, anchor, now_s)
    except (*MALFORMED, x509.ExtensionNotFound) as e:
        raise TrustError(f"the certificate is not what this swarm issues: {e}") from e


def _read(leaf: x509.Certificate, anchor: Anchor, now_s: float) -> Peer:
    begin_s, end_s = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    if now_s < begin_s:  # S7
        raise TrustError("the certificate is not valid yet: is a clock wrong here, or at the coordinator?")
    if now_s >= end_s:  # S7
        raise TrustError("the certificate has expired: renew it, or join anew with a token")
    swarm_id, role, member_id = parse_member_uri(_uri(leaf))
    if swarm_id != anchor.swarm_id:  # S7
        raise TrustError(f"the certificate names a member of swarm {swarm_id}, and this is {anchor.swarm_id}")
    key = p256_key(leaf.public_key(), "the member's")
    due = leaf_extensions(swarm_id, role, member_id, key=key, authority_key=anchor.key)
    check_extensions(leaf.extensions, due)
    return Peer(role=role, member_id=member_id, serial=leaf.serial_number, not_after_s=int(end_s))


def _uri(leaf: x509.Certificate) -> str:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:  # S5
        raise TrustError(f"the certificate has {len(uris)} member names where one is due")
    return uris[0]
