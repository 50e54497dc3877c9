"""Spans as plain data, and the ids by which those of one session find together without a word on the wire. Pure.

The ids of a session's trace are hashes of its number, which every stage knows: so a node names the request's span as
the parent of its own without having been told of it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, Self

Kind = Literal["internal", "server"]

_TRACE_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = 1
MAX_HEADER_CHARS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRef:
    """Names a span: of 128 and 64 bits, neither of them 0.

    Attributes:
        sampled: whether it is recorded.
    """

    trace_id: int
    span_id: int
    sampled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanData:
    """One span that has ended.

    Attributes:
        begun_s: seconds since 1970.
        ended_s: likewise.
        parent: None for a root.
        links: other spans that it belongs with, in other traces.
        error: why what it tells of failed; empty if it did not.
    """

    name: str
    ref: SpanRef
    begun_s: float
    ended_s: float
    parent: SpanRef | None = None
    kind: Kind = "internal"
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    links: tuple[SpanRef, ...] = ()
    error: str = ""

    def child(self, name: str, key: str, begun_s: float, ended_s: float) -> Self:
        """A span within this one; its id is a hash of this one's and `key`."""
        ref = SpanRef(trace_id=self.ref.trace_id, span_id=_hashed(f"{self.ref.span_id}/{key}", 8))
        return type(self)(name=name, ref=ref, parent=self.ref, begun_s=begun_s, ended_s=max(begun_s, ended_s))


def session_root(session: int) -> SpanRef:
    """The span of the request that a session runs, by the session's number on every edge."""
    return SpanRef(trace_id=_hashed(f"osai trace {session}", 16), span_id=_hashed(f"osai root {session}", 8))


def stage_ref(session: int, node_id: str, epoch: int) -> SpanRef:
    """The span of one stage's prefill in one epoch of a session."""
    root = session_root(session)
    return SpanRef(trace_id=root.trace_id, span_id=_hashed(f"osai stage {session}/{node_id}/{epoch}", 8))


def read_trace_parent(header: str | None) -> SpanRef | None:
    """The caller's span out of a W3C `traceparent`; None where there is none, or it is malformed."""
    found = _TRACE_PARENT.fullmatch(header.strip()) if header and len(header) <= MAX_HEADER_CHARS else None
    if found is None or found[1] == "ff" or (found[1] == "00" and found[0].count("-") != 3):  # noqa: PLR2004 - its form
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not span_id:
        return None
    return SpanRef(trace_id=trace_id, span_id=span_id, sampled=bool(int(found[4], 16) & _SAMPLED))


def _hashed(text: str, num_bytes: int) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=num_bytes).digest(), "big") or 1
