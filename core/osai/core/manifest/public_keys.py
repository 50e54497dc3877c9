"""Publishers' public keys as files."""

import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from osai.core.errors import TrustError

MAX_KEY_FILE_BYTES = 4096  # a PEM of an Ed25519 key has 113
_HEX = re.compile(rb"[0-9a-fA-F]{64}")


def parse_public_key(data: bytes) -> bytes:
    """The raw key (32 bytes) of a `.pub` file: PEM SubjectPublicKeyInfo, or 64 hex digits.

    Raises:
        TrustError: if it is neither.
    """
    text = data.strip() if len(data) <= MAX_KEY_FILE_BYTES else b""
    if _HEX.fullmatch(text):
        return bytes.fromhex(text.decode())
    if b"PRIVATE KEY" in text:
        raise TrustError("this is a private key: keep it secret, and name its .pub file instead")
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise TrustError("not a public key: a PEM public key or 64 hex digits are read") from e
    if not isinstance(key, Ed25519PublicKey):
        raise TrustError("the public key is not an Ed25519 key; make one with `osai key create`")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def public_key_pem(public_key: bytes) -> bytes:
    """A raw public key as the PEM of a `.pub` file."""
    return Ed25519PublicKey.from_public_bytes(public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
