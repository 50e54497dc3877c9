"""Everything that makes a manifest unbelievable, each with its own reason: tampering, rollback, expiry, keys."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import pytest

from manifest.publishers import NOW_S, garbled, key_list, sealed, signed_by, verify_at
from osai.core.errors import ManifestError
from osai.core.identity import Identity
from osai.core.manifest import (
    FileEntry,
    Manifest,
    Signature,
    SignedManifest,
    TensorEntry,
    TrustMemory,
    TrustPolicy,
    parse,
    unsigned,
)
from osai.core.manifest.memory import KnownManifest

DIGEST = "ab" * 32
MANIFEST = Manifest(
    model_id="me/small",
    version=3,
    created_s=NOW_S - 1000,
    licence="mit",
    files=(FileEntry(path="config.json", size_bytes=12, chunks=(DIGEST,)),),
    tensors=(
        TensorEntry(
            name="model.norm.weight", file="model.safetensors", begin=80, end=88, dtype="F32", shape=(2,), layer=None,
            chunks=(DIGEST,),
        ),
    ),
)  # fmt: skip
TENSOR = MANIFEST.tensors[0]


@cache
def key(name: str) -> Identity:
    """The same key for the same name."""
    return Identity.generate()


def keys(names: str) -> list[Identity]:
    return [key(name) for name in names]


def me(names: str = "ab", threshold: int = 2, **fields: object) -> TrustPolicy:
    """Trust in the publisher `me`, whose keys are single letters; all of them have signed the list."""
    return TrustPolicy.listed(
        sealed(replace(key_list(keys(names), threshold), **fields), *keys(names))  # type: ignore[arg-type]
    )


def single(names: str) -> TrustPolicy:
    return TrustPolicy.of(each.public_key for each in keys(names))


def by(names: str, **fields: object) -> SignedManifest:
    """A manifest, changed so, signed by these keys."""
    return signed_by(replace(MANIFEST, **fields), *keys(names))  # type: ignore[arg-type]


def moved(signed: SignedManifest, **fields: object) -> SignedManifest:
    """Another manifest under the signatures of this one."""
    return replace(parse(unsigned(replace(MANIFEST, **fields))), signatures=signed.signatures)  # type: ignore[arg-type]


def raw(name: str) -> bytes:
    return key(name).public_key


def remembered(version: int, signed: SignedManifest | None = None) -> TrustMemory:
    digest = signed.digest if signed else bytes(32)
    return TrustMemory(models={"me/small": KnownManifest(version=version, digest=digest)})


def after(trust: TrustPolicy) -> TrustMemory:
    """What is remembered once a manifest has been believed by this policy."""
    return verify_at(by("abcd", version=1), trust)


@dataclass(frozen=True, kw_only=True)
class Case:
    signed: SignedManifest
    trust: TrustPolicy
    says: str
    memory: TrustMemory = field(default_factory=TrustMemory)
    now_s: float = NOW_S


TWO = "1 of the 2 signatures that me requires"
ALTERED = "was altered: the signature by .* is wrong"
UNKNOWN = "not a trusted key for this model"
OLDER_LIST = "version 1 of the key list of me is older than version 2"

TAMPERED: dict[str, Callable[[], Case]] = {
    f"tampered {name}": lambda change=change: Case(  # type: ignore[misc]
        signed=moved(by("a"), **change), trust=single("a"), says=ALTERED
    )
    for name, change in {
        "model id": {"model_id": "me/other"},
        "version": {"version": 4},
        "created": {"created_s": 1},
        "expiry": {"not_after_s": NOW_S + 1},
        "licence": {"licence": "mit2"},
        "licence url": {"licence_url": "https://example.org"},
        "licence acceptance": {"licence_must_accept": True},
        "chunk size": {"chunk_bytes": 2**20},
        "file path": {"files": (replace(MANIFEST.files[0], path="tokenizer.json"),)},
        "file size": {"files": (replace(MANIFEST.files[0], size_bytes=13),)},
        "file digest": {"files": (replace(MANIFEST.files[0], chunks=("cd" * 32,)),)},
        "file gone": {"files": ()},
        "tensor digest": {"tensors": (replace(TENSOR, chunks=("ab" * 31 + "ac",)),)},
        "tensor place": {"tensors": (replace(TENSOR, begin=88, end=96),)},
        "tensor file": {"tensors": (replace(TENSOR, file="other.safetensors"),)},
        "tensor name": {"tensors": (replace(TENSOR, name="model.norm.bias"),)},
        "tensor dtype": {"tensors": (replace(TENSOR, dtype="I32"),)},
        "tensor shape": {"tensors": (replace(TENSOR, shape=(1, 2)),)},
        "tensor layer": {"tensors": (replace(TENSOR, layer=0),)},
        "tensor added": {"tensors": (TENSOR, replace(TENSOR, name="x", begin=88, end=96))},
    }.items()
}
SIGNATURES: dict[str, Callable[[], Case]] = {
    "unsigned": lambda: Case(signed=parse(unsigned(MANIFEST)), trust=single("a"), says="is unsigned"),
    "unsigned for a list": lambda: Case(signed=parse(unsigned(MANIFEST)), trust=me(), says="is unsigned"),
    "wrong signature": lambda: Case(signed=garbled(by("a"), key("a")), trust=single("a"), says=ALTERED),
    "one of two single keys wrong": lambda: Case(signed=garbled(by("ab"), key("a")), trust=single("ab"), says=ALTERED),
    "one of a list wrong": lambda: Case(signed=garbled(by("ab"), key("b")), trust=me(), says=ALTERED),
    "a list's wrong beside a single key's good one": lambda: Case(
        signed=garbled(by("ac"), key("a")), trust=me() | single("c"), says=ALTERED
    ),
    "no context": lambda: Case(signed=_with(key("a").sign(by("a").signed_part)), trust=single("a"), says=ALTERED),
    "a key list's context": lambda: Case(
        signed=_with(key("a").sign(b"osai.v1.keys\0" + by("a").signed_part)), trust=single("a"), says=ALTERED
    ),
    "another key's signature": lambda: Case(
        signed=_with(key("b").sign(b"osai.v1.manifest\0" + by("a").signed_part)), trust=single("a"), says=ALTERED
    ),
    "missing digests": lambda: Case(
        signed=moved(by("a"), tensors=(replace(TENSOR, chunks=()),)), trust=single("a"), says="lacks digests"
    ),
}


def _with(sig: bytes) -> SignedManifest:
    return replace(by("a"), signatures=(Signature(public_key=raw("a"), sig=sig),))


KEYS: dict[str, Callable[[], Case]] = {
    "nobody trusted": lambda: Case(signed=by("a"), trust=TrustPolicy(), says=UNKNOWN),
    "unknown key": lambda: Case(signed=by("a"), trust=single("b"), says=raw("a").hex()),
    "three unknown keys": lambda: Case(signed=by("abc"), trust=single("d"), says=UNKNOWN),
    "pinned to another model": lambda: Case(
        signed=by("a"), trust=TrustPolicy.pinned("me/other", raw("a")), says=UNKNOWN
    ),
    "pinned to what begins alike": lambda: Case(
        signed=by("a"), trust=TrustPolicy.pinned("me/smal", raw("a")), says=UNKNOWN
    ),
    "a list of another model": lambda: Case(signed=by("ab"), trust=me(models=("me/other",)), says=UNKNOWN),
    "a list of another organisation": lambda: Case(signed=by("ab"), trust=me(models=("m/*",)), says=UNKNOWN),
    "a list of models below this one": lambda: Case(signed=by("ab"), trust=me(models=("me/small/*",)), says=UNKNOWN),
    "no key of the list": lambda: Case(signed=by("cd"), trust=me(), says=UNKNOWN),
    "one of two": lambda: Case(signed=by("a"), trust=me(), says=TWO),
    "one of two, and a stranger": lambda: Case(signed=by("ax"), trust=me(), says=TWO),
    "two of three": lambda: Case(signed=by("ac"), trust=me("abc", 3), says="2 of the 3 signatures that me requires"),
    "one of each of two lists": lambda: Case(
        signed=by("ac"), trust=me() | me("cd", publisher="you"), says=f"{TWO}; .* that you requires"
    ),
    "a single key that is not of this model beside one of a list": lambda: Case(
        signed=by("ac"), trust=me() | TrustPolicy.pinned("me/other", raw("c")), says=TWO
    ),
    "revoked key": lambda: Case(
        signed=by("c"), trust=me(revoked_keys=(raw("c"),)), says=f"the key {raw('c').hex()} is revoked"
    ),
    "revoked single key": lambda: Case(
        signed=by("c"), trust=me(revoked_keys=(raw("c"),)) | single("c"), says="is revoked"
    ),
    "revoked pinned key": lambda: Case(
        signed=by("c"),
        trust=me(revoked_keys=(raw("c"),)) | TrustPolicy.pinned("me/small", raw("c")),
        says="is revoked",
    ),
    "revoked key of another list": lambda: Case(
        signed=by("cd"), trust=me(revoked_keys=(raw("c"),)) | me("cd", publisher="you"), says="1 of the 2 .*is revoked"
    ),
    "a revoked key does not count towards the threshold": lambda: Case(
        signed=by("ac"), trust=me(revoked_keys=(raw("c"),)), says=f"{TWO}; the key .* is revoked"
    ),
    "revoked by a list whose time is over": lambda: Case(
        signed=by("c"), trust=me(revoked_keys=(raw("c"),), not_after_s=1) | single("c"), says="is revoked"
    ),
    "revoked manifest": lambda: Case(
        signed=by("ab"), trust=me(revoked_manifests=(by("ab").digest,)), says="version 3 .* is revoked by me"
    ),
    "revoked manifest of a single key": lambda: Case(
        signed=by("c"), trust=me(revoked_manifests=(by("c").digest,)) | single("c"), says="is revoked by me"
    ),
    "revoked manifest by a list whose time is over": lambda: Case(
        signed=by("c"), trust=me(revoked_manifests=(by("c").digest,), not_after_s=1) | single("c"), says="is revoked"
    ),
}
TIME: dict[str, Callable[[], Case]] = {
    "expired": lambda: Case(
        signed=by("a", not_after_s=NOW_S - 1), trust=single("a"), says="has expired on 2025-06-15T15:06:39"
    ),
    "expired by a fraction": lambda: Case(
        signed=by("a", not_after_s=NOW_S), trust=single("a"), says="has expired", now_s=NOW_S + 0.001
    ),
    "expired under a list": lambda: Case(signed=by("ab", not_after_s=0), trust=me(), says="has expired on 1970"),
    "expired list": lambda: Case(
        signed=by("ab"), trust=me(not_after_s=NOW_S - 1), says="the key list of me has expired on 2025"
    ),
    "expired list beside a list that lacks signatures": lambda: Case(
        signed=by("ab"),
        trust=me(not_after_s=NOW_S - 1) | me("bcd", publisher="you"),
        says="key list of me has expired .*; it has 1 of the 2 signatures that you requires",
    ),
    "rollback": lambda: Case(
        signed=by("a"), trust=single("a"), memory=remembered(4), says="version 3 .* is older than version 4"
    ),
    "rollback under a list": lambda: Case(signed=by("ab"), trust=me(), memory=remembered(9), says="is older than"),
    "same version, another digest": lambda: Case(
        signed=by("a"), trust=single("a"), memory=remembered(3), says="is another one than was believed before"
    ),
    "same version by another key": lambda: Case(
        signed=by("b", created_s=5), trust=single("ab"), memory=remembered(3, by("a")), says="is another one"
    ),
    "expired and rolled back": lambda: Case(
        signed=by("a", not_after_s=1), trust=single("a"), memory=remembered(4), says="has expired"
    ),
}


def unsealed(names: str, signers: str, threshold: int = 2, **fields: object) -> TrustPolicy:
    """A list of some keys that others have signed."""
    listed = replace(key_list(keys(names), threshold), **fields)  # type: ignore[arg-type]
    return TrustPolicy.listed(sealed(listed, *keys(signers)))


LISTS: dict[str, Callable[[], Case]] = {
    "a list nobody signed": lambda: Case(
        signed=by("ab"), trust=unsealed("ab", ""), says="has 0 of the 2 signatures that it requires of its own keys"
    ),
    "a list one of two signed": lambda: Case(
        signed=by("ab"), trust=unsealed("ab", "a"), says="has 1 of the 2 signatures that it requires of its own keys"
    ),
    "a list strangers signed": lambda: Case(signed=by("ab"), trust=unsealed("ab", "xy"), says="has 0 of the 2"),
    "a list altered after signing": lambda: Case(
        signed=by("ab"),
        trust=TrustPolicy.listed(
            replace(sealed(key_list(keys("ab"), 1), key("a")), signed_part=b"{}"),
        ),
        says="has 0 of the 1 signatures",
    ),
    "an ill list beside a good single key": lambda: Case(
        signed=by("c"), trust=unsealed("ab", "a") | single("c"), says="has 1 of the 2 signatures that it requires"
    ),
    "a list rolled back": lambda: Case(signed=by("ab"), trust=me(), memory=after(me(version=2)), says=OLDER_LIST),
    "a list rolled back beside a single key": lambda: Case(
        signed=by("c"), trust=me() | single("c"), memory=after(me(version=2)), says=OLDER_LIST
    ),
    "a list of another model rolled back": lambda: Case(
        signed=by("c"), trust=me(models=("x",)) | single("c"), memory=after(me(version=2)), says=OLDER_LIST
    ),
    "a list of the same version with other revocations": lambda: Case(
        signed=by("ab"), trust=me(), memory=after(me(revoked_keys=(raw("c"),))), says="exists with two contents"
    ),
    "two lists of one version": lambda: Case(
        signed=by("ab"), trust=me() | me(models=("*",)), says="exists with two contents"
    ),
    "another publisher's keys under the same name": lambda: Case(
        signed=by("cd"),
        trust=unsealed("cd", "cd", version=2),
        memory=after(me()),
        says="does not follow version 1: it has 0 of the 2 signatures",
    ),
    "a rotation that one of two old keys signed": lambda: Case(
        signed=by("cd"),
        trust=me() | unsealed("cd", "acd", version=2),
        says="does not follow version 1: it has 1 of the 2 signatures",
    ),
    "a rotation that lowers the threshold alone": lambda: Case(
        signed=by("a"), trust=me() | unsealed("a", "a", 1, version=2), says="does not follow version 1"
    ),
    "a rotation that its own keys have not signed": lambda: Case(
        signed=by("cd"), trust=me() | unsealed("cd", "ab", version=2), says="has 0 of the 2 .* of its own keys"
    ),
    "a key that a rotation has dropped": lambda: Case(
        signed=by("b"), trust=me("ab", 1) | unsealed("a", "a", 1, version=2), says=UNKNOWN
    ),
    "a missing step between two lists": lambda: Case(
        signed=by("cd"),
        trust=unsealed("cd", "cdef", version=3),  # by e, f of version 2, which is not there
        memory=after(me()),
        says="get the versions between them",
    ),
}
CASES = TAMPERED | SIGNATURES | KEYS | TIME | LISTS


@pytest.mark.parametrize("name", CASES)
def test_a_manifest_is_refused_with_its_reason(name: str) -> None:
    case = CASES[name]()
    with pytest.raises(ManifestError, match=case.says) as caught:
        verify_at(case.signed, case.trust, case.now_s, case.memory)
    assert "me/" in caught.value.message


def test_there_are_many_of_them() -> None:
    assert len(CASES) >= 70


ACCEPTED: dict[str, Callable[[], Case]] = {
    "a single key": lambda: Case(signed=by("a"), trust=single("a"), says=""),
    "two of two": lambda: Case(signed=by("ab"), trust=me(), says=""),
    "two of three": lambda: Case(signed=by("bc"), trust=me("abc"), says=""),
    "any of two lists": lambda: Case(signed=by("abc"), trust=me() | me("cd", publisher="you"), says=""),
    "a single key beside a list that lacks a signature": lambda: Case(
        signed=by("ac"), trust=me() | single("c"), says=""
    ),
    "a single key beside a list whose time is over": lambda: Case(
        signed=by("c"), trust=me(not_after_s=1) | single("c"), says=""
    ),
    "a key that a list of other models revokes": lambda: Case(
        signed=by("c"), trust=me(revoked_keys=(raw("c"),), models=("x/*",)) | single("c"), says=""
    ),
    "a garbled signature of a revoked key": lambda: Case(
        signed=garbled(by("abc"), key("c")), trust=me(revoked_keys=(raw("c"),)), says=""
    ),
    "the last second": lambda: Case(signed=by("ab", not_after_s=NOW_S), trust=me(not_after_s=NOW_S), says=""),
    "the same again": lambda: Case(signed=by("a"), trust=single("a"), memory=remembered(3, by("a")), says=""),
    "the same with one more signature": lambda: Case(
        signed=by("ab"), trust=me(), memory=remembered(3, by("a")), says=""
    ),
    "a newer one": lambda: Case(signed=by("a"), trust=single("a"), memory=remembered(2), says=""),
    "a rotation that both have signed": lambda: Case(
        signed=by("cd"), trust=unsealed("cd", "abcd", version=2), memory=after(me()), says=""
    ),
    "two rotations at once, the first over": lambda: Case(
        signed=by("ef"),
        trust=unsealed("cd", "abcd", version=2, not_after_s=1) | unsealed("ef", "cdef", version=3),
        memory=after(me()),
        says="",
    ),
    "a list that skips versions, by the same keys": lambda: Case(
        signed=by("ab"), trust=me(version=7), memory=after(me()), says=""
    ),
    "older lists beside the newest, after it was believed": lambda: Case(
        signed=by("cd"),
        trust=me() | unsealed("cd", "abcd", version=2),
        memory=after(unsealed("cd", "abcd", version=2)),
        says="",
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_manifest_is_accepted(name: str) -> None:
    case = ACCEPTED[name]()
    memory = verify_at(case.signed, case.trust, case.now_s, case.memory)
    assert memory.models["me/small"] == KnownManifest(version=3, digest=case.signed.digest)
    assert verify_at(case.signed, case.trust, case.now_s, memory) == memory  # and again
