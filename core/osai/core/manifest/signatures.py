"""Signing manifests, and whose signatures are valid. The M numbers are clauses of docs/manifest.md."""

from collections.abc import Collection, Iterable

from osai.core.errors import ManifestError
from osai.core.identity import Identity, verify
from osai.core.manifest.encode import file_of, signed_part
from osai.core.manifest.entries import Manifest, Signature, SignedManifest
from osai.core.manifest.parse import MAX_SIGNATURES

MANIFEST_CONTEXT = b"osai.v1.manifest\0"  # M2: no signature made for anything else is one of a manifest


def sign(manifest: Manifest, identity: Identity, *more: Identity) -> bytes:
    """The manifest's file with its publishers' signatures.

    Raises:
        ManifestError: if the manifest breaks a rule of docs/manifest.md or lacks a digest, or there are too many keys.
    """
    refuse_missing_digests(manifest)
    signed = signed_part(manifest)
    return _file(signed, [signature_of(MANIFEST_CONTEXT, signed, signer) for signer in (identity, *more)])


def add_signature(signed: SignedManifest, identity: Identity) -> bytes:
    """The manifest's file with one more signature, over the same bytes; one by the same key is replaced.

    Raises:
        ManifestError: if the manifest lacks a digest, or has too many signatures.
    """
    refuse_missing_digests(signed.manifest)
    added = signature_of(MANIFEST_CONTEXT, signed.signed_part, identity)
    return _file(signed.signed_part, [*signed.signatures, added])


def signature_of(context: bytes, signed: bytes, identity: Identity) -> Signature:
    """A signature over a context's bytes."""
    return Signature(public_key=identity.public_key, sig=identity.sign(context + signed))


def split_valid(
    context: bytes, signed: bytes, signatures: Iterable[Signature], keys: Collection[bytes]
) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Which of `keys` have signed, and which of them have a signature there that is wrong. Others are not looked at."""
    message = context + signed
    own = [signature for signature in signatures if signature.public_key in keys]
    valid = frozenset(s.public_key for s in own if verify(s.public_key, s.sig, message))
    return valid, frozenset(s.public_key for s in own) - valid


def refuse_missing_digests(manifest: Manifest) -> None:
    """Refuse what no signature can vouch for.

    Raises:
        ManifestError: if a digest is missing.
    """
    if manifest.lacks_digests():  # M8
        raise ManifestError(
            f"the manifest of {manifest.model_id} lacks digests, so no signature can vouch for its weights: "
            "make it with `osai manifest create`"
        )


def _file(signed: bytes, signatures: Iterable[Signature]) -> bytes:
    by_key = {signature.public_key: signature for signature in signatures}  # M9: no key twice
    if len(by_key) > MAX_SIGNATURES:  # M9
        raise ManifestError(f"{len(by_key)} signatures are over the limit of {MAX_SIGNATURES}")
    return file_of(signed, by_key.values())
