"""Members of a private swarm, and certificates that no authority of ours would issue."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from osai.core.admission import Anchor, Authority, Peer, RevocationList, Role, TlsKey, read_peer, seal
from osai.core.admission.profile import Extensions, common_name, leaf_extensions, time_of
from osai.core.errors import TrustError
from osai.core.identity import Identity

NOW_S = 1_800_000_000.0
Changed = Callable[[Extensions], Extensions]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One that has joined: its keys and its leaf."""

    identity: Identity
    key: TlsKey
    role: Role
    leaf: bytes
    peer: Peer

    @classmethod
    def of(cls, authority: Authority, role: Role, *, now_s: float = NOW_S) -> Self:
        identity, key = Identity.generate(), TlsKey.generate()
        serials = Random(identity.node_id).randbytes
        leaf = authority.issue(role, identity.node_id, key.public_key, now_s=now_s, random=serials)
        peer = read_peer(leaf, authority.anchor, now_s)
        return cls(identity=identity, key=key, role=role, leaf=leaf, peer=peer)


def sealed_list(authority: Authority, *revoked: str, now_s: float = NOW_S) -> bytes:
    """A signed list of revoked members."""
    revocations = RevocationList(swarm_id=authority.anchor.swarm_id)
    for member_id in revoked:
        revocations = revocations.revoking_member(member_id, now_s)
    return seal(revocations.next(now_s), authority)


def odd_leaf(
    authority: Authority,
    *,
    changed: Changed = lambda extensions: extensions,
    key: ec.EllipticCurvePublicKey | None = None,
    issuer: x509.Name | None = None,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
) -> bytes:
    """A node's leaf that the authority's key has signed, but not by our program."""
    public = key or TlsKey.generate().public_key
    member_id = "ab" * 16
    due = leaf_extensions(
        authority.anchor.swarm_id, Role.NODE, member_id, key=public, authority_key=authority.anchor.key
    )
    builder = x509.CertificateBuilder(
        subject_name=common_name(member_id),
        issuer_name=issuer or authority.anchor.certificate.subject,
        public_key=public,
        serial_number=77,
        not_valid_before=time_of(NOW_S - 60),
        not_valid_after=time_of(NOW_S + 60),
    )
    for value, critical in changed(due):
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(authority.key.private_key, algorithm or hashes.SHA256()).public_bytes(Encoding.PEM)


def named(*names: x509.GeneralName) -> Changed:
    """Other names in the leaf."""
    return lambda due: [
        (x509.SubjectAlternativeName(names), critical)
        if isinstance(value, x509.SubjectAlternativeName)
        else (value, critical)
        for value, critical in due
    ]


def without(kind: type[x509.ExtensionType]) -> Changed:
    """The leaf without an extension."""
    return lambda due: [(value, critical) for value, critical in due if not isinstance(value, kind)]


def instead(other: x509.ExtensionType, *, critical: bool) -> Changed:
    """The leaf with another value of an extension, or one more."""
    return lambda due: [
        *((value, was) for value, was in due if value.oid != other.oid),
        (other, critical),
    ]


def outcome(read: Callable[[bytes], object], data: bytes) -> object:
    """What `read` makes of `data`; None where it refuses it by an error of trust. Any other error is a fault."""
    try:
        return read(data)
    except TrustError:
        return None


def der(leaf: bytes) -> bytes:
    """A PEM certificate's bytes."""
    return x509.load_pem_x509_certificate(leaf).public_bytes(Encoding.DER)


def believed(leaf: bytes, anchor: Anchor, now_s: float = NOW_S) -> Peer:
    """The member of a leaf."""
    return read_peer(leaf, anchor, now_s)
