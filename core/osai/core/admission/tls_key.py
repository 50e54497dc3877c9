"""A P-256 key: a member's for TLS, or the authority's. Reading and writing key files is the caller's."""

from dataclasses import dataclass, field
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from osai.core.errors import TrustError

MAX_KEY_BYTES = 4096  # a P-256 key has 241 as PEM


@dataclass(frozen=True, slots=True)
class TlsKey:
    """A private key. P-256, because grpcio's TLS takes no Ed25519 certificates (S2 of docs/security.md)."""

    private_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """A new key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read an unencrypted PKCS#8 PEM.

        Raises:
            TrustError: if it holds no P-256 private key.
        """
        try:
            key = load_pem_private_key(pem if len(pem) <= MAX_KEY_BYTES else b"", password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            raise TrustError(f"not a private key in PEM form: {e}") from e
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise TrustError("the private key is not a P-256 key")
        return cls(key)

    @property
    def pem(self) -> bytes:
        """The private key as unencrypted PKCS#8 PEM."""
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Its public key."""
        return self.private_key.public_key()
