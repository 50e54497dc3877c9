"""Who may vouch for a model: publisher keys, signing and verifying. The M numbers are clauses of docs/manifest.md."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from osai.core.errors import ManifestError, TrustError
from osai.core.identity import Identity
from osai.core.identity import verify as signature_is_valid
from osai.core.manifest.encode import manifest_file, signed_part
from osai.core.manifest.entries import Manifest, Signature, SignedManifest

MAX_KEY_FILE_BYTES = 4096  # a PEM of an Ed25519 key has 113
_CONTEXT = b"osai.v1.manifest\0"  # M2: no signature made for anything else is one of a manifest
_HEX = re.compile(rb"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """Which publisher keys are believed (M9). Raw public keys, 32 bytes.

    Attributes:
        any_model: keys that may sign any model.
        pins: (model id, key): keys that may sign that model. A pin adds to `any_model`, it does not replace it.
    """

    any_model: frozenset[bytes] = frozenset()
    pins: frozenset[tuple[str, bytes]] = frozenset()

    @classmethod
    def of(cls, keys: Iterable[bytes]) -> Self:
        """Trust `keys` for any model."""
        return cls(any_model=frozenset(keys))

    @classmethod
    def pinned(cls, model_id: str, key: bytes) -> Self:
        """Trust `key` for one model."""
        return cls(pins=frozenset({(model_id, key)}))

    def __or__(self, other: Self) -> Self:
        return type(self)(any_model=self.any_model | other.any_model, pins=self.pins | other.pins)

    def trusts(self, model_id: str, key: bytes) -> bool:
        """Whether `key` may vouch for `model_id`."""
        return key in self.any_model or (model_id, key) in self.pins


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


def sign(manifest: Manifest, identity: Identity) -> bytes:
    """The manifest's file with the publisher's signature.

    Raises:
        ManifestError: if the manifest breaks a rule of docs/manifest.md or lacks a digest.
    """
    _refuse_missing_digests(manifest)
    sig = identity.sign(_CONTEXT + signed_part(manifest))
    return manifest_file(manifest, [Signature(public_key=identity.public_key, sig=sig)])


def verify(signed: SignedManifest, trust: TrustPolicy) -> None:
    """Accept a manifest that a trusted publisher has signed (M9).

    Raises:
        ManifestError: if no trusted key has signed it, a trusted key's signature is wrong, or a digest is missing.
    """
    model_id = signed.manifest.model_id
    if not signed.signatures:
        raise ManifestError(
            f"the manifest of {model_id} is unsigned: sign it with `osai manifest create`, or serve it unverified with "
            "--allow-unsigned"
        )
    trusted = [s for s in signed.signatures if trust.trusts(model_id, s.public_key)]
    for signature in trusted:
        if not signature_is_valid(signature.public_key, signature.sig, _CONTEXT + signed.signed_part):
            raise ManifestError(
                f"the manifest of {model_id} was altered: the signature by {signature.public_key.hex()} is wrong; "
                "get it from the publisher again",
                subject=model_id,
            )
    if not trusted:
        keys = ", ".join(s.public_key.hex() for s in signed.signatures)
        raise ManifestError(
            f"the manifest of {model_id} is signed by {keys}, not a trusted key for this model: "
            "if you trust the publisher, give the key with --trust",
            subject=model_id,
        )
    _refuse_missing_digests(signed.manifest)


def _refuse_missing_digests(manifest: Manifest) -> None:
    if manifest.lacks_digests():  # M7
        raise ManifestError(
            f"the manifest of {manifest.model_id} lacks digests, so no signature can vouch for its weights: "
            "make it with `osai manifest create`"
        )
