"""Publishers of the tests: what they sign, and verifying it at a moment of their own."""

from collections.abc import Sequence
from dataclasses import replace

from osai.core.identity import Identity
from osai.core.manifest import (
    KeyList,
    Manifest,
    SignedKeyList,
    SignedManifest,
    TrustMemory,
    TrustPolicy,
    parse,
    parse_key_list,
    sign,
    sign_key_list,
    verify,
)

NOW_S = 1_750_000_000
NOTHING = TrustMemory()


def verify_at(
    signed: SignedManifest, trust: TrustPolicy, now_s: float = NOW_S, memory: TrustMemory = NOTHING
) -> TrustMemory:
    """Verify, and remember."""
    verify(signed, trust, now_s=now_s, memory=memory)
    return memory.remembering(signed, trust)


def signed_by(manifest: Manifest, *keys: Identity) -> SignedManifest:
    """The manifest with these keys' signatures."""
    return parse(sign(manifest, *keys))


def key_list(keys: Sequence[Identity], threshold: int = 1, models: Sequence[str] = ("me/*",)) -> KeyList:
    """The first list of the publisher `me`."""
    return KeyList(
        publisher="me",
        version=1,
        keys=tuple(key.public_key for key in keys),
        threshold=threshold,
        models=tuple(models),
    )


def sealed(listed: KeyList, *signers: Identity) -> SignedKeyList:
    """A key list with these keys' signatures."""
    return parse_key_list(sign_key_list(listed, signers))


def garbled(signed: SignedManifest, key: Identity) -> SignedManifest:
    """The manifest with another signature in place of the key's."""
    signatures = tuple(
        replace(each, sig=bytes(64)) if each.public_key == key.public_key else each for each in signed.signatures
    )
    return replace(signed, signatures=signatures)
