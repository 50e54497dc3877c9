"""The member's side: a request for a certificate, the certificate that comes, and when to renew it. Pure.

The S numbers are clauses of docs/security.md.
"""

import struct
from dataclasses import dataclass, field
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from osai.core.admission.authority import Anchor
from osai.core.admission.peer import Peer, read_peer
from osai.core.admission.profile import MALFORMED, common_name, load, p256_key
from osai.core.admission.roles import Role
from osai.core.admission.tls_key import TlsKey
from osai.core.errors import TrustError
from osai.core.identity import Identity, node_id_of, verify

MAX_CSR_BYTES = 2048  # one of ours has some 250; bounds what anybody can make the issuer parse
RENEW_AT = 2 / 3  # of a certificate's life: a third is left to reach a coordinator
_CONTEXT = b"osai.v1.leaf-request\0"  # S8: no signature made for anything else is one of a request


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafRequest:
    """A member's request for a certificate, as it travels (S8).

    Attributes:
        csr: PKCS#10 in DER, signed with the TLS key that the certificate is for. Only its key is read.
        public_key: the member's Ed25519 key, raw, 32 bytes; its digest is the member's id.
        signature: that key's, 64 bytes; see `request_leaf`.
    """

    csr: bytes
    public_key: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """Who asks for a certificate, once its request has been checked: its id, and the key that it is for."""

    member_id: str
    key: ec.EllipticCurvePublicKey


def enrolling(token_id: str) -> bytes:
    """The occasion of a first request: the join token."""
    return b"enrol " + token_id.encode()


def renewing(peer: Peer) -> bytes:
    """The occasion of a renewal: the certificate that the member shows."""
    return b"renew %032x" % peer.serial


def request_leaf(identity: Identity, key: TlsKey, swarm_id: str, occasion: bytes) -> LeafRequest:
    """Ask for a certificate of `key` (S8).

    Args:
        identity: the member's; it signs context line, swarm id, occasion and the CSR's DER.
        key: a new TLS key.
        swarm_id: of the swarm that is to issue it.
        occasion: see `enrolling` and `renewing`: a request is good for one.
    """
    builder = x509.CertificateSigningRequestBuilder(subject_name=common_name(identity.node_id))
    csr = builder.sign(key.private_key, hashes.SHA256()).public_bytes(Encoding.DER)
    signature = identity.sign(_message(swarm_id, occasion, csr))
    return LeafRequest(csr=csr, public_key=identity.public_key, signature=signature)


def check_request(request: LeafRequest, swarm_id: str, occasion: bytes) -> Applicant:
    """The issuer's check of a request (S8).

    Raises:
        TrustError: if the request is malformed, was made for another swarm or occasion, or by somebody who has not both
            keys.
    """
    if len(request.csr) > MAX_CSR_BYTES:
        raise TrustError(f"a certificate request of {len(request.csr)} bytes is over the limit of {MAX_CSR_BYTES}")
    if not verify(request.public_key, request.signature, _message(swarm_id, occasion, request.csr)):
        raise TrustError("the certificate request is not signed by the member's identity for this swarm and occasion")
    try:
        csr = x509.load_der_x509_csr(request.csr)
        key = p256_key(csr.public_key(), "the request's")
        proven = csr.is_signature_valid
    except MALFORMED as e:
        raise TrustError(f"not a certificate request: {e}") from e
    if not proven:
        raise TrustError("the certificate request is not signed with the TLS key that it is for")
    return Applicant(member_id=node_id_of(request.public_key), key=key)


def renewal_due_s(not_before_s: float, not_after_s: float) -> float:
    """When a certificate that is valid from and to these times is to be renewed (S9)."""
    return not_before_s + RENEW_AT * (not_after_s - not_before_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a member shows to others, and checks them by.

    Attributes:
        anchor: the swarm's.
        leaf_pem: its certificate, the whole chain: the authority stands right above it.
        key: the certificate's.
        me: the member, as others will see it.
        renew_at_s: when to renew, in seconds since 1970.
    """

    anchor: Anchor
    leaf_pem: bytes
    key: TlsKey = field(repr=False)
    me: Peer
    renew_at_s: float

    @classmethod
    def read(cls, leaf: bytes, key: TlsKey, anchor: Anchor, *, role: Role, member_id: str, now_s: float) -> Self:
        """Take a certificate, PEM or DER, that has just been issued or was kept.

        Raises:
            TrustError: if it would not be believed, is for another key, or of another member or role than this (S9).
        """
        me = read_peer(leaf, anchor, now_s)
        if me.member_id != member_id or me.role is not role:
            raise TrustError(f"the certificate is of {me.role} {me.member_id}, and this is {role} {member_id}")
        certificate = load(leaf)
        if certificate.public_key() != key.public_key:
            raise TrustError("the certificate is for another TLS key than this member's")
        begin_s = certificate.not_valid_before_utc.timestamp()
        end_s = certificate.not_valid_after_utc.timestamp()
        pem, renew_at_s = certificate.public_bytes(Encoding.PEM), renewal_due_s(begin_s, end_s)
        return cls(anchor=anchor, leaf_pem=pem, key=key, me=me, renew_at_s=renew_at_s)


def _message(swarm_id: str, occasion: bytes, csr: bytes) -> bytes:
    parts = (swarm_id.encode(), occasion, csr)
    return _CONTEXT + b"".join(struct.pack("<I", len(part)) + part for part in parts)
