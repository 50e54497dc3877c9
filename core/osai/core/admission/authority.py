"""The authority of a private swarm: a small certificate authority, and the certificate by which all know it. Pure.

The S numbers are clauses of docs/security.md. The clock and what is random are passed in; keys are made, and
signatures drawn, by the library from the operating system's randomness.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import SignatureAlgorithmOID

from osai.core.admission.profile import (
    MALFORMED,
    Extensions,
    authority_extensions,
    check_extensions,
    common_name,
    leaf_extensions,
    load,
    p256_key,
    time_of,
)
from osai.core.admission.roles import Role, is_member_id
from osai.core.admission.tls_key import TlsKey
from osai.core.errors import TrustError
from osai.core.identity import NODE_ID_HEX_DIGITS

AUTHORITY_LIFE_S = 3650 * 86400
LEAF_LIFE_S = 86400
CLIENT_LEAF_LIFE_S = 7 * 86400  # S4: people are away over a weekend, and nothing renews for them meanwhile
MAX_LEAF_LIFE_S = 7 * 86400  # S4: for so long a stolen certificate could be of use where no revocation list comes
CLOCK_SKEW_S = 300  # certificates are valid from so long before their issue: members' clocks differ
SERIAL_BYTES = 16


def leaf_life_s(role: Role) -> int:
    """How long a certificate of a role is to live (S4)."""
    return CLIENT_LEAF_LIFE_S if role is Role.CLIENT else LEAF_LIFE_S


RandomBytes = Callable[[int], bytes]  # secrets.token_bytes, or a test's


@dataclass(frozen=True, slots=True)
class Anchor:
    """The authority's certificate: all that a member believes, and all that it needs to tell members from others.

    Attributes:
        swarm_id: the head of the SHA-256 of the authority's public key (S1).
    """

    certificate: x509.Certificate
    swarm_id: str = field(init=False)
    _key: ec.EllipticCurvePublicKey = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            key = p256_key(self.certificate.public_key(), "the swarm's")
            check_extensions(self.certificate.extensions, authority_extensions(key))  # S2
        except MALFORMED as e:
            raise TrustError(f"the certificate is no swarm's: {e}") from e
        object.__setattr__(self, "_key", key)
        object.__setattr__(self, "swarm_id", _swarm_id(key))
        self.check_issued(self.certificate)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The anchor in a PEM or DER certificate.

        Raises:
            TrustError: if it is not a certificate as `Authority.create` makes them.
        """
        return cls(load(data))

    @property
    def pem(self) -> bytes:
        """The certificate, as gRPC takes it for `root_certificates`."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the certificate's DER, by which a join token names it (S10)."""
        return sha256(self.certificate.public_bytes(Encoding.DER)).digest()

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The authority's public key."""
        return self._key

    def check_issued(self, certificate: x509.Certificate) -> None:
        """Refuse a certificate that the authority has not signed; none of its contents is believed before (S7).

        Raises:
            TrustError: if it has not.
        """
        try:
            if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
                raise TrustError("the certificate is signed in a way that no swarm uses")
            self.verify(b"", certificate.tbs_certificate_bytes, certificate.signature)
            if certificate.issuer != self.certificate.subject:
                raise TrustError("the certificate names another issuer than this swarm's authority")
        except MALFORMED as e:
            raise TrustError(f"not a certificate: {e}") from e

    def verify(self, context: bytes, message: bytes, signature: bytes) -> None:
        """Accept what the authority has signed.

        Raises:
            TrustError: if it has not.
        """
        try:
            self._key.verify(signature, context + message, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, UnsupportedAlgorithm, ValueError) as e:
            raise TrustError(f"not signed by the authority of swarm {self.swarm_id}: is it of another swarm?") from e


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The anchor with its private key. One coordinator of the swarm has it (S3)."""

    anchor: Anchor
    key: TlsKey

    def __post_init__(self) -> None:
        if self.key.public_key != self.anchor.key:
            raise TrustError("the authority's key does not belong to its certificate: were files mixed up?")

    @classmethod
    def create(cls, now_s: float, random: RandomBytes) -> Self:
        """A new swarm's authority (S1, S2)."""
        key = TlsKey.generate()
        name, public = common_name(f"osai swarm {_swarm_id(key.public_key)}"), key.public_key
        builder = _builder(name, name, public, random, now_s, AUTHORITY_LIFE_S)
        certificate = _signed(builder, authority_extensions(public), key)
        return cls(anchor=Anchor(certificate), key=key)

    def issue(
        self,
        role: Role,
        member_id: str,
        key: ec.EllipticCurvePublicKey,
        *,
        now_s: float,
        random: RandomBytes,
        life_s: int = LEAF_LIFE_S,
    ) -> bytes:
        """A member's certificate, its leaf, as PEM (S4, S5). Whether the member is to have it is the caller's to know.

        Args:
            role: what the member may be.
            member_id: as `osai.core.identity.node_id_of` gives it.
            key: the member's P-256 public key, from a request that was checked.
            now_s: seconds since 1970.
            random: draws the serial number.
            life_s: from now on.

        Raises:
            TrustError: if the id or the key has another form, or the leaf would live too long, or longer than the
                authority.
        """
        if not is_member_id(member_id):
            raise TrustError(f"{member_id[:80]!r} is no member id: it is {NODE_ID_HEX_DIGITS} lower-case hex digits")
        if not 0 < life_s <= MAX_LEAF_LIFE_S:  # S4
            raise TrustError(f"a certificate can't live for {life_s} s: give 1 to {MAX_LEAF_LIFE_S}")
        if time_of(now_s + life_s) > self.anchor.certificate.not_valid_after_utc:  # S4
            raise TrustError("the swarm's authority ends before the certificate would: make a new swarm")
        public = p256_key(key, "the member's")
        issuer = self.anchor.certificate.subject
        builder = _builder(common_name(member_id), issuer, public, random, now_s, life_s)
        due = leaf_extensions(self.anchor.swarm_id, role, member_id, key=public, authority_key=self.anchor.key)
        return _signed(builder, due, self.key).public_bytes(Encoding.PEM)

    def sign(self, context: bytes, message: bytes) -> bytes:
        """Sign something else than a certificate: its context begins as none does, with `osai.v1.`."""
        return self.key.private_key.sign(context + message, ec.ECDSA(hashes.SHA256()))


def _swarm_id(key: ec.EllipticCurvePublicKey) -> str:
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(encoded).hexdigest()[:NODE_ID_HEX_DIGITS]  # S1


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    random: RandomBytes,
    now_s: float,
    life_s: int,
) -> x509.CertificateBuilder:
    serial = 1 << (8 * SERIAL_BYTES - 1) | int.from_bytes(random(SERIAL_BYTES))  # S4: never 0, always as long
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key, serial_number=serial)
    return builder.not_valid_before(time_of(now_s - CLOCK_SKEW_S)).not_valid_after(time_of(now_s + life_s))


def _signed(builder: x509.CertificateBuilder, extensions: Extensions, key: TlsKey) -> x509.Certificate:
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(key.private_key, hashes.SHA256())
