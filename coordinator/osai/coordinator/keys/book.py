"""All keys of a coordinator. Pure: a book is a value, and what changes it gives another one."""

import hmac
from dataclasses import dataclass, field, replace
from typing import Self

from osai.coordinator.keys.api_key import ApiKey, Quota, Scope
from osai.coordinator.keys.key_text import NOT_VALID, KeyText, RandomBytes
from osai.core.errors import InvalidRequestError, ResourceExhaustedError, TrustError, UnauthenticatedError
from osai.core.manifest.encode import canonical
from osai.core.strict_json import Fields, fields_of, read_json

FORMAT = 1
MAX_KEYS = 4096
MAX_BOOK_BYTES = 16 * 2**20
KEPT_S = 90 * 86400  # that a key has ended is remembered so long, for people who look into a log
_NO_DIGEST = "0" * 64
_BOOK: Fields = {"format": int, "keys": list}


@dataclass(frozen=True, slots=True)
class KeyBook:
    """The keys, the oldest first; those that have ended too, for a while."""

    keys: tuple[ApiKey, ...] = ()
    _by_id: dict[str, ApiKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {key.key_id: key for key in self.keys})

    def find(self, key_id: str) -> ApiKey | None:
        """The key of that id."""
        return self._by_id.get(key_id)

    def authenticate(self, shown: KeyText, now_s: float) -> ApiKey:
        """The key that a caller has shown.

        Raises:
            UnauthenticatedError: if it is unknown, or its secret another (A2: in the same words), or it has ended.
        """
        found = self.find(shown.key_id)
        digest = found.secret_sha256 if found else _NO_DIGEST
        if not hmac.compare_digest(digest, shown.secret_sha256) or found is None:  # A2: compared either way
            raise UnauthenticatedError(NOT_VALID)
        found.check_good(now_s)
        return found

    def create(
        self,
        name: str,
        *,
        now_s: float,
        random: RandomBytes,
        scopes: frozenset[Scope],
        models: tuple[str, ...] = ("*",),
        quota: Quota | None = None,
        life_s: int = 0,
    ) -> tuple[Self, KeyText]:
        """Make a key, good for `life_s` (0: for ever). Keys that ended long ago are forgotten.

        Raises:
            InvalidRequestError: if the name, a model or a limit is out of its bounds.
            ResourceExhaustedError: if there are too many.
        """
        text = KeyText.create(random)
        made = ApiKey(
            key_id=text.key_id,
            secret_sha256=text.secret_sha256,
            name=name,
            created_s=int(now_s),
            expires_s=int(now_s) + life_s if life_s else 0,
            scopes=scopes,
            models=models,
            quota=quota or Quota(),
        )
        kept = tuple(key for key in self.keys if not 0 < key.ended_s(now_s) < now_s - KEPT_S)
        if len(kept) >= MAX_KEYS or any(key.key_id == made.key_id for key in kept):
            raise ResourceExhaustedError(f"there is no room for another key: at most {MAX_KEYS} are kept in a file")
        return type(self)((*kept, made)), text

    def revoked(self, key_id: str, now_s: float) -> Self:
        """The book with a key revoked; one that is revoked already stays so.

        Raises:
            InvalidRequestError: if there is no such key. The message does not repeat what was given for an id (A7).
        """
        if (found := self.find(key_id)) is None:
            raise InvalidRequestError("no API key has that id: `osai-coordinator key list` shows them")
        ended = found if found.revoked_s else replace(found, revoked_s=int(now_s))
        return type(self)(tuple(ended if key is found else key for key in self.keys))

    def to_json(self) -> bytes:
        """The book as a file. It holds no secret, and must not be altered by others.

        Raises:
            ResourceExhaustedError: if it is larger than is read again (A3).
        """
        data = canonical({"format": FORMAT, "keys": [key.to_entry() for key in self.keys]})
        if len(data) > MAX_BOOK_BYTES:
            raise ResourceExhaustedError(f"the keys file would have {len(data)} bytes, over {MAX_BOOK_BYTES}")
        return data

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read a book's file.

        Raises:
            TrustError: if it is damaged.
        """
        book = fields_of("keys file", read_json("keys file", data, MAX_BOOK_BYTES), _BOOK)
        if book["format"] != FORMAT:
            raise TrustError(f"keys file format {book['format']} is unknown (this release reads {FORMAT})")
        if len(book["keys"]) > MAX_KEYS:
            raise TrustError(f"a keys file of {len(book['keys'])} keys is over the limit of {MAX_KEYS}")
        read = tuple(ApiKey.from_entry(entry) for entry in book["keys"])
        if len({key.key_id for key in read}) != len(read):
            raise TrustError("the keys file lists a key twice")
        return cls(read)
