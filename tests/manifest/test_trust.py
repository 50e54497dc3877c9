"""Who is believed, and what no signature can make believed."""

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from manifest.publishers import garbled, signed_by, verify_at
from osai.core.errors import ManifestError, TrustError
from osai.core.identity import Identity
from osai.core.manifest import (
    Manifest,
    Signature,
    TrustPolicy,
    parse,
    parse_public_key,
    public_key_pem,
    sign,
    unsigned,
)


def test_a_trusted_key_for_any_model(manifest: Manifest, key: Identity) -> None:
    verify_at(parse(sign(manifest, key)), TrustPolicy.of([key.public_key]))


def test_a_key_pinned_to_this_model(manifest: Manifest, key: Identity) -> None:
    verify_at(parse(sign(manifest, key)), TrustPolicy.pinned("me/small", key.public_key))


def test_a_key_pinned_to_another_model_is_not_trusted_for_this_one(manifest: Manifest, key: Identity) -> None:
    with pytest.raises(ManifestError, match=f"{key.public_key.hex()}.*--trust"):
        verify_at(parse(sign(manifest, key)), TrustPolicy.pinned("me/other", key.public_key))


def test_an_untrusted_key_is_named(manifest: Manifest, key: Identity) -> None:
    with pytest.raises(ManifestError, match=f"{key.public_key.hex()}.*--trust"):
        verify_at(parse(sign(manifest, key)), TrustPolicy.of([Identity.generate().public_key]))


def test_nobody_trusted(manifest: Manifest, key: Identity) -> None:
    with pytest.raises(ManifestError, match="--trust"):
        verify_at(parse(sign(manifest, key)), TrustPolicy())


def test_an_unsigned_manifest(manifest: Manifest, key: Identity) -> None:
    with pytest.raises(ManifestError, match="unsigned"):
        verify_at(parse(unsigned(manifest)), TrustPolicy.of([key.public_key]))


def test_merged_policies_trust_what_either_does(manifest: Manifest, key: Identity) -> None:
    other = Identity.generate()
    trust = TrustPolicy.of([other.public_key]) | TrustPolicy.pinned("me/small", key.public_key)
    assert trust.single_keys("me/small") == {key.public_key, other.public_key}
    assert trust.single_keys("me/other") == {other.public_key}
    verify_at(parse(sign(manifest, key)), trust)
    verify_at(parse(sign(manifest, other)), trust)


def test_an_untrusted_signature_beside_a_trusted_one_is_no_matter(manifest: Manifest, key: Identity) -> None:
    stranger = Identity.generate()
    parsed = signed_by(manifest, stranger, key)
    verify_at(parsed, TrustPolicy.of([key.public_key]))
    verify_at(garbled(parsed, stranger), TrustPolicy.of([key.public_key]))


def test_a_wrong_signature_by_a_trusted_key_is_refused_whatever_else_is_there(
    manifest: Manifest, key: Identity
) -> None:
    other = Identity.generate()
    parsed = signed_by(manifest, key, other)
    with pytest.raises(ManifestError, match=f"altered: the signature by {key.public_key.hex()}"):
        verify_at(garbled(parsed, key), TrustPolicy.of([key.public_key, other.public_key]))


def test_a_signature_of_another_manifest_is_refused(manifest: Manifest, key: Identity) -> None:
    newer = json.loads(sign(replace(manifest, version=4), key))
    older = json.loads(sign(manifest, key))
    mixed = json.dumps({"signed": newer["signed"], "signatures": older["signatures"]}).encode()
    with pytest.raises(ManifestError, match="altered"):
        verify_at(parse(mixed), TrustPolicy.of([key.public_key]))


def test_a_signature_without_the_context_is_refused(manifest: Manifest, key: Identity) -> None:
    parsed = parse(unsigned(manifest))
    bare = Signature(public_key=key.public_key, sig=key.sign(parsed.signed_part))
    with pytest.raises(ManifestError, match="altered"):
        verify_at(replace(parsed, signatures=(bare,)), TrustPolicy.of([key.public_key]))


def test_missing_digests_are_refused_even_under_a_good_signature(manifest: Manifest, key: Identity) -> None:
    tensors = (replace(manifest.tensors[0], chunks=()), *manifest.tensors[1:])
    parsed = parse(unsigned(replace(manifest, tensors=tensors)))
    sig = key.sign(b"osai.v1.manifest\0" + parsed.signed_part)
    signature = Signature(public_key=key.public_key, sig=sig)
    with pytest.raises(ManifestError, match="lacks digests"):
        verify_at(replace(parsed, signatures=(signature,)), TrustPolicy.of([key.public_key]))


def test_public_keys_are_read_as_pem_and_as_hex(key: Identity) -> None:
    assert parse_public_key(public_key_pem(key.public_key)) == key.public_key
    assert parse_public_key(f"{key.public_key.hex()}\n".encode()) == key.public_key
    assert parse_public_key(key.public_key.hex().upper().encode()) == key.public_key


@pytest.mark.parametrize(
    "data", [b"", b"ab" * 31, b"zz" * 32, b"\xff" * 32, b"ab" * 4096, b"-----BEGIN PUBLIC KEY-----"]
)
def test_what_is_no_public_key_is_refused(data: bytes) -> None:
    with pytest.raises(TrustError, match="not a public key"):
        parse_public_key(data)


def test_a_private_key_is_refused_as_public_one(key: Identity) -> None:
    with pytest.raises(TrustError, match=r"private key: .*\.pub"):
        parse_public_key(key.to_pem())


def test_a_key_of_another_kind_is_refused() -> None:
    key = generate_private_key(SECP256R1()).public_key()
    with pytest.raises(TrustError, match="not an Ed25519 key"):
        parse_public_key(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
