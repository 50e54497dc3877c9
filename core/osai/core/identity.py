"""A member's Ed25519 identity. Reading and writing key files is the caller's."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from osai.core.errors import TrustError

NODE_ID_HEX_DIGITS = 32  # 128 bits of the key's digest: collisions are out of reach, and it still fits a line


def node_id_of(public_key: bytes) -> str:
    """The member id of a raw Ed25519 public key (32 bytes): the head of its SHA-256, in hex."""
    return sha256(public_key).hexdigest()[:NODE_ID_HEX_DIGITS]


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key and what follows from it."""

    private_key: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> Self:
        """A new identity."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read an unencrypted PKCS#8 PEM.

        Raises:
            TrustError: if it holds no Ed25519 private key.
        """
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as e:
            raise TrustError(f"not a private key in PEM form: {e}") from e
        if not isinstance(key, Ed25519PrivateKey):
            raise TrustError("the private key is not an Ed25519 key")
        return cls(key)

    def to_pem(self) -> bytes:
        """The private key as unencrypted PKCS#8 PEM."""
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self.private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def node_id(self) -> str:
        """The id by which other members know this one."""
        return node_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""
        return self.private_key.sign(message)


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is `public_key`'s over `message`; False too for a malformed key."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
