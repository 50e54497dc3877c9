"""Key lists: every rule refuses what breaks it, what they take in, and how one leads to another."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest.publishers import NOW_S, key_list, sealed, signed_by, verify_at
from osai.core.errors import ManifestError, OsaiError, TrustError
from osai.core.identity import Identity
from osai.core.manifest import KeyList, Manifest, TrustMemory, TrustPolicy, parse_key_list, sign_key_list
from osai.core.manifest.key_list import KnownList
from osai.core.manifest.key_list_file import MAX_KEYS_FILE_BYTES, add_key_list_signature
from osai.core.manifest.rotation import current_lists, num_signed

KEYS = [Identity.generate() for _ in range(8)]
Edit = Callable[[dict[str, Any]], object]


def hexes(count: int) -> list[str]:
    return [f"{i:064x}" for i in range(count)]


def signed(**fields: object) -> Edit:
    return lambda top: top["signed"].update(fields)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (signed(format=2), "key list format 2 is unknown .*upgrade"),
        (signed(format=True), "'format' is of the wrong type"),
        (signed(more=1), "'more' is unknown"),
        (lambda top: top["signed"].pop("threshold"), "'threshold' is missing"),
        (lambda top: top.update(more=1), "'more' is unknown"),
        (lambda top: top.update(signed=[]), "'signed' is of the wrong type"),
        (signed(publisher=""), "publisher ''"),
        (signed(publisher="a b"), "publisher 'a b'"),
        (signed(version=0), "version must be 1"),
        (signed(version=2**53), "version must be 1"),
        (signed(version=1.5), "is no integer"),
        (signed(not_after_s=-1), "not_after_s must be null"),
        (signed(not_after_s="never"), "'not_after_s' is of the wrong type"),
        (signed(keys=[]), "a threshold of 1 is not between 1 and the number of keys, 0"),
        (signed(keys=hexes(9)), "9 keys are over the limit of 8"),
        (signed(keys=hexes(1) * 2), "some keys are listed twice"),
        (signed(keys=["ab"]), "one of keys is not 64 lower-case hex digits"),
        (signed(keys=["AB" * 32]), "one of keys is not 64 lower-case hex digits"),
        (signed(keys=[1]), "keys is no list of strings"),
        (signed(threshold=0), "a threshold of 0"),
        (signed(threshold=3), "a threshold of 3 is not between 1 and the number of keys, 2"),
        (signed(models=[]), "models must be model ids"),
        (signed(models=["me/**"]), "models must be model ids"),
        (signed(models=["/*"]), "models must be model ids"),
        (signed(models=["*/me"]), "models must be model ids"),
        (signed(models=["../*"]), "models must be model ids"),
        (signed(models=["a", "a"]), "some patterns of models are listed twice"),
        (signed(models=[f"m{i}" for i in range(1001)]), "1001 patterns of models are over the limit"),
        (signed(revoked_keys=hexes(1) * 2), "some revoked keys are listed twice"),
        (signed(revoked_keys=hexes(10_001)), "10001 revoked keys are over the limit"),
        (signed(revoked_keys=[KEYS[0].public_key.hex()]), "among a key list's keys and revoked"),
        (signed(revoked_manifests=hexes(10_001)), "10001 revoked manifests are over the limit"),
        (signed(revoked_manifests=["x"]), "one of revoked_manifests is not 64 lower-case hex"),
        (lambda top: top.update(signatures=top["signatures"] * 2), "a key has signed twice"),
        (lambda top: top["signatures"][0].update(sig="ab"), "a signature is not 128 lower-case hex"),
    ],
)
def test_a_rule_refuses(edit: Edit, says: str) -> None:
    top = json.loads(sign_key_list(key_list(KEYS[:2]), KEYS[:1]))
    edit(top)
    with pytest.raises(TrustError, match=says):
        parse_key_list(json.dumps(top).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"\xff", b'{"signed": {}, "signed": {}, "signatures": []}', b" " * (MAX_KEYS_FILE_BYTES + 1)]
)
def test_what_is_no_key_list_is_refused(data: bytes) -> None:
    with pytest.raises(TrustError, match="key list"):
        parse_key_list(data)


def test_a_list_at_its_limits_can_be_written_and_read() -> None:
    largest = replace(
        key_list(KEYS, 8),
        models=tuple(f"{i:04}" + "m" * 251 for i in range(1000)),
        revoked_keys=tuple(bytes.fromhex(text) for text in hexes(10_000)),
        revoked_manifests=tuple(bytes.fromhex(text) for text in hexes(10_000)),
    )
    others = [Identity.generate() for _ in range(8)]
    assert parse_key_list(sign_key_list(largest, [*KEYS, *others])).listed == largest
    with pytest.raises(TrustError, match="17 signatures are over the limit"):
        sign_key_list(largest, [*KEYS, *others, Identity.generate()])


def test_signing_refuses_what_parsing_would() -> None:
    with pytest.raises(TrustError, match="a threshold of 3"):
        sign_key_list(key_list(KEYS[:2], 3), KEYS[:2])


def test_signatures_are_added_over_the_same_bytes() -> None:
    first = sealed(key_list(KEYS[:2], 2), KEYS[0])
    both = parse_key_list(add_key_list_signature(first, KEYS[1]))
    assert (both.signed_part, both.digest, num_signed(both, both.listed.keys)) == (first.signed_part, first.digest, 2)
    again = parse_key_list(add_key_list_signature(both, KEYS[0]))
    assert num_signed(again, again.listed.keys) == 2
    assert len(again.signatures) == 2


@pytest.mark.parametrize(
    ("pattern", "taken", "left"),
    [
        ("me/small", ["me/small"], ["me/small2", "me", "ME/small", "x/me/small"]),
        ("me/*", ["me/small", "me/a/b"], ["me", "meme/small", "you/me/small"]),
        ("me/a/*", ["me/a/b"], ["me/a", "me/ab", "me/b"]),
        ("*", ["a", "a/b/c"], []),
    ],
)
def test_what_a_pattern_takes_in(pattern: str, taken: list[str], left: list[str]) -> None:
    listed = key_list(KEYS[:1], models=["x", pattern])
    assert all(listed.may_vouch_for(model_id) for model_id in taken)
    assert not any(listed.may_vouch_for(model_id) for model_id in left)


@st.composite
def key_lists(draw: st.DrawFn) -> KeyList:
    own = draw(st.lists(st.sampled_from(KEYS[:6]), min_size=1, unique=True))
    digests = st.lists(st.binary(min_size=32, max_size=32), max_size=3, unique=True).map(tuple)
    return replace(
        key_list(own, draw(st.integers(1, len(own)))),
        publisher=draw(st.sampled_from(("me", "you.org", "a/b"))),
        version=draw(st.integers(1, 2**53 - 1)),
        not_after_s=draw(st.none() | st.integers(0, 2**53 - 1)),
        models=tuple(draw(st.lists(st.sampled_from(("*", "me/*", "x")), min_size=1, unique=True))),
        revoked_keys=tuple(draw(st.lists(st.sampled_from([k.public_key for k in KEYS[6:]]), unique=True))),
        revoked_manifests=draw(digests),
    )


@given(key_lists(), st.lists(st.sampled_from(KEYS), unique=True))
def test_parse_is_the_inverse_of_sign_and_the_threshold_decides(listed: KeyList, signers: list[Identity]) -> None:
    signed = sealed(listed, *signers)
    assert signed.listed == listed
    if sum(signer.public_key in listed.keys for signer in signers) >= listed.threshold:
        assert current_lists([signed], {}) == (signed,)
    else:
        with pytest.raises(TrustError, match="signatures that it requires of its own keys"):
            current_lists([signed], {})


@given(key_lists(), st.data())
def test_a_changed_file_is_never_believed_as_another_list(listed: KeyList, data: st.DataObject) -> None:
    changed = bytearray(sign_key_list(listed, KEYS[:6]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=1))
    try:
        signed = parse_key_list(bytes(changed))
        current_lists([signed], {})
    except OsaiError as e:
        e.to_proto()  # the message can always be sent
        return
    assert signed.listed == listed  # spaces between tokens, or a signature more than it needs, at most


@given(st.permutations(range(4)), st.integers(0, 4))
def test_a_chain_of_rotations_leads_from_anywhere_to_its_end_in_any_order(order: list[int], seen: int) -> None:
    """Each list is of two keys of its own, signed by them and by those of the list before."""
    chain = [
        sealed(replace(key_list(KEYS[2 * i : 2 * i + 2], 2), version=i + 1), *KEYS[max(2 * i - 2, 0) : 2 * i + 2])
        for i in range(4)
    ]
    known = {"me": KnownList.of(chain[seen - 1])} if seen else {}
    assert current_lists([chain[i] for i in order], known) == (chain[-1],)
    for gone in range(max(seen, 1), 3):  # a step that is needed
        with pytest.raises(TrustError, match="does not follow"):
            current_lists([signed for i, signed in enumerate(chain) if i != gone], known)


def test_what_a_publisher_goes_through(manifest: Manifest) -> None:
    """Two of three keys; one is stolen and revoked; a new one comes; each node follows from what it knew."""
    a, b, c, d = KEYS[:4]
    first = sealed(replace(key_list([a, b, c], 2), not_after_s=NOW_S + 10), a, b)
    memory = verify_at(signed_by(manifest, a, c), TrustPolicy.listed(first))
    stolen = signed_by(replace(manifest, version=4), b, c)
    verify_at(stolen, TrustPolicy.listed(first), memory=memory)  # nobody knows yet
    second = sealed(
        replace(
            first.listed, version=2, keys=(a.public_key, b.public_key), revoked_keys=(c.public_key,),
            revoked_manifests=(stolen.digest,),
        ), a, b,
    )  # fmt: skip
    trust = TrustPolicy.listed(first, second)
    with pytest.raises(ManifestError, match="revoked by me"):
        verify_at(stolen, trust, memory=memory)
    memory = verify_at(signed_by(replace(manifest, version=5), a, b), trust, memory=memory)
    with pytest.raises(ManifestError, match="older than version 2"):
        verify_at(signed_by(replace(manifest, version=6), a, c), TrustPolicy.listed(first), memory=memory)
    third = sealed(
        replace(second.listed, version=3, keys=(a.public_key, d.public_key), not_after_s=NOW_S + 1000), a, b, d
    )
    memory = verify_at(
        signed_by(replace(manifest, version=6), a, d), TrustPolicy.listed(third), NOW_S + 20, memory=memory
    )
    assert memory.publishers["me"] == KnownList.of(third)
    with pytest.raises(ManifestError, match="1 of the 2 signatures that me requires"):
        verify_at(signed_by(replace(manifest, version=7), a, b), TrustPolicy.listed(third), memory=memory)


def test_lists_are_checked_when_they_are_used_not_when_they_are_put_into_a_policy(manifest: Manifest) -> None:
    forged = TrustPolicy.listed(sealed(key_list(KEYS[:1]), KEYS[1]))
    with pytest.raises(ManifestError, match="has 0 of the 1 signatures that it requires"):
        verify_at(signed_by(manifest, KEYS[0]), forged)
    with pytest.raises(TrustError):
        TrustMemory().remembering(signed_by(manifest, KEYS[0]), forged)
