"""Who may vouch for a model. The M and K numbers are clauses of docs/manifest.md."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from osai.core.manifest.key_list import SignedKeyList


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """Which publishers are believed (M10). Keys are raw public keys, 32 bytes.

    Attributes:
        any_model: keys each of which may sign any model.
        pins: (model id, key): keys each of which may sign that model.
        key_lists: publishers' lists; of several of one publisher the newest counts, once it follows the others. A list
            is checked each time that something is verified, not when it is put here.
    """

    any_model: frozenset[bytes] = frozenset()
    pins: frozenset[tuple[str, bytes]] = frozenset()
    key_lists: frozenset[SignedKeyList] = frozenset()

    @classmethod
    def of(cls, keys: Iterable[bytes]) -> Self:
        """Trust each of `keys` for any model."""
        return cls(any_model=frozenset(keys))

    @classmethod
    def pinned(cls, model_id: str, key: bytes) -> Self:
        """Trust `key` for one model."""
        return cls(pins=frozenset({(model_id, key)}))

    @classmethod
    def listed(cls, *lists: SignedKeyList) -> Self:
        """Trust the publishers of these lists for the models that they name."""
        return cls(key_lists=frozenset(lists))

    def __or__(self, other: Self) -> Self:
        return type(self)(
            any_model=self.any_model | other.any_model,
            pins=self.pins | other.pins,
            key_lists=self.key_lists | other.key_lists,
        )

    def single_keys(self, model_id: str) -> frozenset[bytes]:
        """Keys that may vouch for `model_id` alone, without a list."""
        return self.any_model | {key for pinned, key in self.pins if pinned == model_id}
