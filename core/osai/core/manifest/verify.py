"""Whether a manifest is to be believed. Pure; the M, K and H numbers are clauses of docs/manifest.md."""

from osai.core.errors import ManifestError, TrustError
from osai.core.manifest.entries import SignedManifest
from osai.core.manifest.key_list import KeyList
from osai.core.manifest.memory import TrustMemory
from osai.core.manifest.policy import TrustPolicy
from osai.core.manifest.rotation import current_lists
from osai.core.manifest.signatures import MANIFEST_CONTEXT, refuse_missing_digests, split_valid
from osai.core.manifest.times import utc


def verify(signed: SignedManifest, trust: TrustPolicy, *, now_s: float, memory: TrustMemory) -> None:
    """Accept a manifest that a trusted publisher vouches for. `memory.remembering` is due after it.

    Args:
        signed: the manifest.
        trust: who may vouch.
        now_s: seconds since 1970.
        memory: what was believed before; an empty one lets old manifests and key lists pass.

    Raises:
        ManifestError: why it is not believed: unsigned, a digest or too many signatures missing, a signature wrong,
            keys unknown or revoked, the manifest revoked, expired or older than one that was believed, or a key list
            that is none, expired or older.
    """
    manifest = signed.manifest
    if not signed.signatures:
        raise ManifestError(
            f"the manifest of {manifest.model_id} is unsigned: sign it with `osai manifest sign`, or serve it "
            "unverified with --allow-unsigned",
            subject=manifest.model_id,
        )
    refuse_missing_digests(manifest)
    try:
        lists = [each.listed for each in current_lists(trust.key_lists, memory.publishers)]
    except TrustError as e:
        raise ManifestError(f"the manifest of {manifest.model_id} is not verified: {e.message}") from e
    vouching = [listed for listed in lists if listed.may_vouch_for(manifest.model_id)]
    _refuse_revoked(signed, vouching)
    _refuse_unvouched(signed, trust.single_keys(manifest.model_id), vouching, now_s)
    if manifest.not_after_s is not None and now_s > manifest.not_after_s:  # M12
        raise ManifestError(
            f"the manifest of {manifest.model_id} has expired on {utc(manifest.not_after_s)}: get the newer one from "
            "the publisher, and see that this machine's clock is right",
            subject=manifest.model_id,
        )
    memory.refuse_rollback(signed)


def _refuse_revoked(signed: SignedManifest, lists: list[KeyList]) -> None:
    model_id = signed.manifest.model_id
    for listed in lists:
        if signed.digest in listed.revoked_manifests:  # M11
            raise ManifestError(
                f"version {signed.manifest.version} of the manifest of {model_id} is revoked by {listed.publisher}: "
                "get a newer one from the publisher",
                subject=model_id,
            )


def _refuse_unvouched(signed: SignedManifest, single: frozenset[bytes], lists: list[KeyList], now_s: float) -> None:
    model_id = signed.manifest.model_id
    revoked = frozenset(key for listed in lists for key in listed.revoked_keys)  # M11
    trusted = single.union(*(listed.keys for listed in lists)) - revoked
    valid, wrong = split_valid(MANIFEST_CONTEXT, signed.signed_part, signed.signatures, trusted)
    if wrong:  # M10
        raise ManifestError(
            f"the manifest of {model_id} was altered: the signature by {min(wrong).hex()} is wrong; get it from the "
            "publisher again",
            subject=model_id,
        )
    if valid & single:  # M10
        return
    reasons = [_shortcoming(listed, valid, now_s) for listed in lists]
    if "" in reasons:
        return
    signers = [signature.public_key for signature in signed.signatures]
    told = [reason for reason in reasons if reason is not None]
    told += [f"the key {key.hex()} is revoked" for key in signers if key in revoked]
    if told:
        raise ManifestError(f"nobody vouches for the manifest of {model_id}: {'; '.join(told)}", subject=model_id)
    keys = ", ".join(key.hex() for key in signers)
    raise ManifestError(
        f"the manifest of {model_id} is signed by {keys}, not a trusted key for this model: "
        "if you trust the publisher, give the key with --trust",
        subject=model_id,
    )


def _shortcoming(listed: KeyList, valid: frozenset[bytes], now_s: float) -> str | None:
    """What a publisher's list lacks to vouch: empty for nothing, None where none of its keys has signed."""
    count = len(valid.intersection(listed.keys))
    if count < listed.threshold:  # K3
        missing = f"it has {count} of the {listed.threshold} signatures that {listed.publisher} requires"
        return missing if count else None
    if listed.not_after_s is not None and listed.has_expired(now_s):  # K5
        return (
            f"the key list of {listed.publisher} has expired on {utc(listed.not_after_s)}: get the newer one from the "
            "publisher, as it may revoke keys, and see that this machine's clock is right"
        )
    return ""
