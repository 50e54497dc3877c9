"""Which chunks leave a cache that is too full. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A chunk in the cache.

    Attributes:
        sha256: in hex.
        used_s: when it was last read or written, seconds since 1970.
    """

    sha256: str
    size_bytes: int
    used_s: float


def choose_evictions(kept: Iterable[Kept], max_bytes: int) -> tuple[Kept, ...]:
    """Those to be removed so that the rest is at most `max_bytes`: the least recently used, and no more than needed.

    Several processes that look at the same cache choose the same ones.
    """
    listed = sorted(kept, key=lambda one: (one.used_s, one.sha256))
    over, chosen = sum(one.size_bytes for one in listed) - max_bytes, []
    for one in listed:
        if over <= 0:
            break
        over -= one.size_bytes
        chosen.append(one)
    return tuple(chosen)
