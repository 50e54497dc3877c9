"""What stands in the certificates of a private swarm: as they are issued, and as they must be to be believed. Pure.

The S numbers are clauses of docs/security.md.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from osai.core.admission.roles import Role, member_uri, server_names
from osai.core.errors import TrustError

MAX_CERTIFICATE_BYTES = 8192  # a leaf has some 900 as PEM; bounds what a peer can make us parse
Extensions = Sequence[tuple[x509.ExtensionType, bool]]  # each with whether it is critical
# what the library raises of a certificate that is none, or an odd one; it reads most fields only when asked for them
MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_PEM_BEGIN = b"-----BEGIN"


def load(data: bytes) -> x509.Certificate:
    """A certificate in PEM, as gRPC gives it, or in DER, as the module ssl does. Parsed is not believed.

    Raises:
        TrustError: if it is neither, or too large.
    """
    if len(data) > MAX_CERTIFICATE_BYTES:  # S7
        raise TrustError(f"a certificate of {len(data)} bytes is over the limit of {MAX_CERTIFICATE_BYTES}")
    try:
        if data.startswith(_PEM_BEGIN):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except MALFORMED as e:
        raise TrustError(f"not a certificate: {e}") from e


def common_name(name: str) -> x509.Name:
    """A certificate's subject or issuer; for people alone, nothing is read from a leaf's."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def time_of(seconds: float) -> datetime:
    """Seconds since 1970 as certificates have them: whole ones."""
    return datetime.fromtimestamp(int(seconds), UTC)


def authority_extensions(key: ec.EllipticCurvePublicKey) -> Extensions:
    """Of the authority's own certificate (S2): it issues leaves and nothing else."""
    return (
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage(is_authority=True), True),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
    )


def leaf_extensions(
    swarm_id: str,
    role: Role,
    member_id: str,
    *,
    key: ec.EllipticCurvePublicKey,
    authority_key: ec.EllipticCurvePublicKey,
) -> Extensions:
    """Of a member's certificate (S5, S6)."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(member_uri(swarm_id, role, member_id))]
    names.extend(x509.DNSName(name) for name in server_names(role, member_id))
    client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
    return (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(is_authority=False), True),
        (x509.ExtendedKeyUsage([client] if role is Role.CLIENT else [server, client]), True),
        (x509.SubjectAlternativeName(names), False),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), False),
    )


def p256_key(key: object, whose: str) -> ec.EllipticCurvePublicKey:
    """`key`, if it is a P-256 public key: the only kind that is used for TLS here (S2).

    Raises:
        TrustError: if it is of another kind.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError(f"{whose} key is not a P-256 key")
    return key


def check_extensions(found: Iterable[x509.Extension[x509.ExtensionType]], due: Extensions) -> None:
    """A certificate must say all that is due, in those words; of what it says besides, nothing may be critical (S7).

    Raises:
        TrustError: if it does not.
    """
    present = {extension.oid: extension for extension in found}
    for value, critical in due:
        extension = present.pop(value.oid, None)
        if extension is None or extension.value != value or extension.critical != critical:
            name = type(value).__name__
            raise TrustError(f"the certificate's {name} is not what this swarm issues: get a new certificate")
    for extension in present.values():
        if extension.critical:
            raise TrustError(f"the certificate has an unknown critical extension {extension.oid.dotted_string}")


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
