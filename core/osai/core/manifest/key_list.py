"""A publisher's list of keys, as data. docs/manifest.md is the specification; the K numbers are its clauses."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

from osai.core.errors import TrustError
from osai.core.manifest.entries import Signature
from osai.core.manifest.names import is_plain_name
from osai.core.safetensors_header import MAX_INT

KEYS_FORMAT = 1
KEYS_FILE = "osai-keys.json"
MAX_KEYS = 8  # an old and a new list's keys may all have to sign: two times as many signatures are allowed
MAX_PATTERNS = 1000
MAX_REVOKED = 10_000
ANY_MODEL = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyList:
    """Who signs for a publisher.

    Attributes:
        publisher: its name; lists of the same name follow each other.
        version: rises with every list of this publisher.
        keys: raw public keys that may sign.
        threshold: how many of them must.
        not_after_s: seconds since 1970 after which the list vouches for nothing; None: it does not expire.
        models: what it may vouch for: model ids, `org/*` for every id below org, `*` for any.
        revoked_keys: keys that are believed no more, for any of these models.
        revoked_manifests: digests of manifests that are believed no more, whoever signed them.
    """

    publisher: str
    version: int
    keys: tuple[bytes, ...]
    threshold: int
    models: tuple[str, ...]
    not_after_s: int | None = None
    revoked_keys: tuple[bytes, ...] = ()
    revoked_manifests: tuple[bytes, ...] = ()
    format: int = KEYS_FORMAT

    def may_vouch_for(self, model_id: str) -> bool:
        """Whether one of its patterns takes the model in (K4)."""
        return any(
            pattern in (ANY_MODEL, model_id) or (pattern.endswith("/*") and model_id.startswith(pattern[:-1]))
            for pattern in self.models
        )

    def has_expired(self, now_s: float) -> bool:
        """Whether its time is over (K5)."""
        return self.not_after_s is not None and now_s > self.not_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedKeyList:
    """A parsed key list. Parsed is not believed: see `current_lists`.

    Attributes:
        signed_part: the canonical bytes of `listed`, which the signatures cover.
        digest: SHA-256 of the signed part.
    """

    listed: KeyList
    signed_part: bytes
    signatures: tuple[Signature, ...]
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.signed_part).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownList:
    """What is kept of a list that was believed, to tell whether another one follows it."""

    version: int
    digest: bytes
    keys: tuple[bytes, ...]
    threshold: int

    @classmethod
    def of(cls, signed: SignedKeyList) -> Self:
        """What is kept of this one."""
        listed = signed.listed
        return cls(version=listed.version, digest=signed.digest, keys=listed.keys, threshold=listed.threshold)


def check_key_list(listed: KeyList) -> None:
    """Refuse a key list that breaks a rule.

    Raises:
        TrustError: naming the rule.
    """
    if listed.format != KEYS_FORMAT:  # K1
        raise TrustError(f"key list format {listed.format} is unknown (this release reads {KEYS_FORMAT}): upgrade osai")
    if not is_plain_name(listed.publisher):  # K3
        raise TrustError(f"publisher {listed.publisher[:80]!r} may only have letters, digits and ._-/ in its name")
    if not 1 <= listed.version <= MAX_INT:  # K3
        raise TrustError("a key list's version must be 1 or more")
    if listed.not_after_s is not None and not 0 <= listed.not_after_s <= MAX_INT:  # K5
        raise TrustError("a key list's not_after_s must be null, or 0 or more")
    check_keys(listed.keys, listed.threshold)
    _check_members("patterns of models", listed.models, MAX_PATTERNS)
    if not listed.models or not all(_is_pattern(pattern) for pattern in listed.models):  # K4
        raise TrustError("a key list's models must be model ids, ORG/* or *, at least one")
    _check_members("revoked keys", listed.revoked_keys, MAX_REVOKED)
    _check_members("revoked manifests", listed.revoked_manifests, MAX_REVOKED)
    if set(listed.keys) & set(listed.revoked_keys):  # K6
        raise TrustError("a key is among a key list's keys and revoked by it")


def check_keys(keys: tuple[bytes, ...], threshold: int) -> None:
    """Refuse keys that can't reach their threshold (K3).

    Raises:
        TrustError: saying why.
    """
    _check_members("keys", keys, MAX_KEYS)
    if not 1 <= threshold <= len(keys):
        raise TrustError(f"a threshold of {threshold} is not between 1 and the number of keys, {len(keys)}")


def _check_members(what: str, members: Collection[str] | Collection[bytes], limit: int) -> None:
    if len(members) > limit:
        raise TrustError(f"{len(members)} {what} are over the limit of {limit}")
    if len(set(members)) != len(members):
        raise TrustError(f"some {what} are listed twice")


def _is_pattern(pattern: str) -> bool:
    return pattern == ANY_MODEL or is_plain_name(pattern.removesuffix("/*"))
