"""What is kept of a key: what it may do, how much, and until when. Pure."""

import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from osai.coordinator.keys.key_text import ID_BYTES
from osai.core.errors import ForbiddenError, InvalidRequestError, TrustError, UnauthenticatedError
from osai.core.strict_json import Fields, fields_of

MAX_NAME_CHARS = 80
MAX_PATTERNS = 64
MAX_LIMIT = 10**12  # of any quota
MAX_TIME_S = 2**53  # what every JSON reader keeps exact
_ID = re.compile(f"[0-9a-f]{{{2 * ID_BYTES}}}")
_DIGEST = re.compile("[0-9a-f]{64}")
_PATTERN = re.compile(r"[A-Za-z0-9._/*-]{1,255}")


class Scope(StrEnum):
    """What a key may do (A4)."""

    GENERATE = "generate"
    MODELS = "models"  # list those that it may use
    SWARM = "swarm"  # see the nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much a key may use (A5); 0: no limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0  # prompt and generated
    tokens_per_day: int = 0
    max_concurrent: int = 0  # generations

    def __post_init__(self) -> None:
        if not all(type(limit) is int and 0 <= limit <= MAX_LIMIT for limit in asdict(self).values()):
            raise InvalidRequestError(f"a quota is a whole number up to {MAX_LIMIT}; 0 stands for no limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key.

    Attributes:
        key_id: 16 hex digits.
        secret_sha256: in hex; the secret itself is kept nowhere (A2).
        name: for people: whose it is.
        created_s: seconds since 1970.
        expires_s: seconds since 1970; 0: never.
        revoked_s: seconds since 1970; 0: it is not.
        scopes: what it may do.
        models: ids that it may use, in which `*` stands for anything.

    Raises:
        InvalidRequestError: if a field is out of its bounds.
    """

    key_id: str
    secret_sha256: str = field(repr=False)
    name: str
    created_s: int
    expires_s: int = 0
    revoked_s: int = 0
    scopes: frozenset[Scope] = frozenset({Scope.GENERATE, Scope.MODELS})
    models: tuple[str, ...] = ("*",)
    quota: Quota = field(default_factory=Quota)

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.key_id) or not _DIGEST.fullmatch(self.secret_sha256):
            raise InvalidRequestError("a key's id or digest is no hex number of its length")
        if not 0 < len(self.name) <= MAX_NAME_CHARS or not self.name.isprintable():
            raise InvalidRequestError(f"a key's name is 1 to {MAX_NAME_CHARS} characters on one line")
        if not all(0 <= at_s <= MAX_TIME_S for at_s in (self.created_s, self.expires_s, self.revoked_s)):
            raise InvalidRequestError("a key's times are seconds since 1970, up to 2^53")
        if not self.scopes or not 0 < len(self.models) <= MAX_PATTERNS:
            raise InvalidRequestError(f"a key needs a scope, and 1 to {MAX_PATTERNS} models")
        if not all(_PATTERN.fullmatch(pattern) for pattern in self.models):
            raise InvalidRequestError("a key's model is a model id, in which * may stand for anything")

    def ended_s(self, now_s: float) -> int:
        """When the key ceased to be good, seconds since 1970; 0 while it is."""
        expired_s = self.expires_s if self.expires_s and now_s >= self.expires_s else 0
        return min((at_s for at_s in (self.revoked_s, expired_s) if at_s), default=0)

    def check_good(self, now_s: float) -> None:
        """Raise an UnauthenticatedError if the key is good no longer; only for who has its secret (A2)."""
        if self.ended_s(now_s):
            what = "is revoked" if self.revoked_s else "has expired"
            raise UnauthenticatedError(
                f"API key {self.key_id} {what}: ask the coordinator's operator for a new one", subject=self.key_id
            )

    def check_scope(self, scope: Scope) -> None:
        """Raise a ForbiddenError if the key may not do that (A4)."""
        if scope not in self.scopes:
            raise ForbiddenError(
                f"API key {self.key_id} lacks the scope {scope}: ask the coordinator's operator for one that has it",
                subject=self.key_id,
            )

    def may_use(self, model_id: str) -> bool:
        """Whether one of its patterns names the model (A4)."""
        return any(_matches(pattern, model_id) for pattern in self.models)

    def check_model(self, model_id: str) -> None:
        """Raise a ForbiddenError if the key may not use the model, in the same words whether it is served or not."""
        if not self.may_use(model_id):
            raise ForbiddenError(
                f"API key {self.key_id} may not use model {model_id[:255]!r}: name one that it may use",
                subject=self.key_id,
            )

    def to_entry(self) -> dict[str, Any]:
        """The key as the keys file has it."""
        return asdict(self) | {"scopes": sorted(self.scopes), "models": list(self.models)}

    @classmethod
    def from_entry(cls, entry: object) -> Self:
        """Read an entry of the keys file.

        Raises:
            TrustError: if it is damaged.
        """
        fields = fields_of("keys file entry", entry, _ENTRY)
        quota = fields_of("quota", fields["quota"], _QUOTA)
        if not all(type(text) is str for text in (*fields["scopes"], *fields["models"])):
            raise TrustError(f"API key {fields['key_id'][:16]}: a scope or a model is no text")
        if not set(fields["scopes"]) <= set(Scope):
            raise TrustError(
                f"API key {fields['key_id'][:16]} has a scope that this release does not know: upgrade osai"
            )
        try:
            return cls(
                **fields
                | {
                    "scopes": frozenset(Scope(scope) for scope in fields["scopes"]),
                    "models": tuple(fields["models"]),
                    "quota": Quota(**quota),
                }
            )
        except InvalidRequestError as e:
            raise TrustError(f"API key {fields['key_id'][:16]}: {e.message}") from e


_QUOTA: Fields = dict.fromkeys(Quota.__dataclass_fields__, int)
_ENTRY: Fields = {
    "key_id": str,
    "secret_sha256": str,
    "name": str,
    "created_s": int,
    "expires_s": int,
    "revoked_s": int,
    "scopes": list,
    "models": list,
    "quota": dict,
}


def _matches(pattern: str, model_id: str) -> bool:
    """Whether `*` in `pattern` can stand for something that makes it `model_id`; in time of one pass."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == model_id
    *middle, last = rest
    at, end = len(first), len(model_id) - len(last)
    if at > end or not model_id.startswith(first) or not model_id.endswith(last):
        return False
    for part in middle:
        found = model_id.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
