"""Keys for tests: books of them, a keyring whose clocks are set by hand."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from osai.coordinator.keys.api_key import ApiKey, Quota, Scope
from osai.coordinator.keys.book import KeyBook
from osai.coordinator.keys.key_text import KeyText, RandomBytes
from osai.coordinator.keys.keyring import Keyring

NOW_S = 1_700_000_000.5
ALL = frozenset(Scope)


def counting() -> RandomBytes:
    """Bytes that never come twice."""
    numbers = count(1)
    return lambda num_bytes: next(numbers).to_bytes(num_bytes)


def created(book: KeyBook | None = None, **fields: Any) -> tuple[KeyBook, KeyText]:  # noqa: ANN401 - of any field
    """A book with one more key."""
    book = book or KeyBook()
    text = KeyText(key_id=f"{len(book.keys):016x}", secret=bytes([len(book.keys)]) * 32)
    pieces = iter((bytes.fromhex(text.key_id), text.secret))
    arguments: dict[str, Any] = {"now_s": NOW_S, "scopes": ALL, "random": lambda _: next(pieces), **fields}
    return book.create("somebody", **arguments)


def bearer(text: KeyText) -> str:
    """The header by which it is shown."""
    return f"Bearer {text.text}"


@dataclass
class Clocks:
    """Both clocks of a keyring."""

    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Keys:
    """A keyring with the keys that a test makes, one after the other."""

    book: KeyBook = field(default_factory=KeyBook)
    clocks: Clocks = field(default_factory=Clocks)
    keyring: Keyring = field(init=False)

    def __post_init__(self) -> None:
        self.keyring = Keyring(self.book, wall_clock=self.clocks, clock=self.clocks)

    def make(self, *scopes: Scope, life_s: int = 0, models: tuple[str, ...] = ("*",), **quota: int) -> KeyText:
        """One more key; of all scopes unless some are named."""
        self.book, text = created(
            self.book, scopes=frozenset(scopes) or ALL, life_s=life_s, models=models, quota=Quota(**quota)
        )
        self.keyring.replace(self.book)
        return text

    def revoke(self, text: KeyText) -> None:
        self.keyring.replace(self.book.revoked(text.key_id, self.clocks.now_s))


def only_key(book: KeyBook) -> ApiKey:
    (key,) = book.keys
    return key
