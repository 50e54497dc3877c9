"""The sessions that cross this node, and what follows from each event. Pure: no I/O, no clock, no tensors.

The shell (osai.node.ring) feeds it what arrives and carries out the actions that it returns.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from osai.core.errors import (
    AssignmentError,
    InvalidRequestError,
    OsaiError,
    UnavailableError,
    UnknownSessionError,
)
from osai.core.prefix import BLOCK_TOKENS
from osai.node.engine.api import Rows, Sampled, SessionSpec, StepOutput
from osai.node.stage import Action, Deliver, Fail, Forward, HostedSpan, OpenRequest, Peer, Release, Return

NUM_REMEMBERED_CLOSED = 4096  # frames of a session may still be on their way when it closes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    request: OpenRequest
    owner: int
    is_tail: bool
    lanes: tuple[str, str]  # names of the ways to its successor, for decode and for prefill: quicker to compare than it


class StageTable:
    """Every session that is open on this node, whichever span it uses."""

    def __init__(self) -> None:
        self._spans: dict[str, HostedSpan] = {}
        self._sessions: dict[int, _Session] = {}
        self._closed: OrderedDict[int, None] = OrderedDict()

    @property
    def num_sessions(self) -> int:
        """Sessions open now."""
        return len(self._sessions)

    def host(self, span: HostedSpan) -> None:
        """Serve a span from now on."""
        self._spans[span.key] = span

    def open(self, request: OpenRequest, owner: int, scope: str) -> SessionSpec:
        """Take a session; the caller opens it in the engine, and calls `close` if that fails.

        Args:
            request: what the coordinator asks for.
            owner: number of the link it came by; the session ends with that link.
            scope: whose sessions may share KV with it.

        Raises:
            InvalidRequestError: if the pipeline is said to have more stages than the model has layers.
            AssignmentError: if this node does not serve that span of those weights, or already runs the session.
        """
        span = self._spans.get(request.model_id)
        if span is None or span.layers != request.layers:
            has = f"layers {span.layers} of it" if span else "none of it"
            raise AssignmentError(f"asked for layers {request.layers} of {request.model_id}; this node serves {has}")
        if span.manifest_digest != request.manifest_digest:
            raise AssignmentError(f"this node has other weights of {request.model_id}: the manifests' digests differ")
        if request.session in self._sessions:
            raise AssignmentError(f"session {request.session:016x} is already open on this node")
        if request.num_stages > span.num_layers:
            raise InvalidRequestError(f"{request.num_stages} stages are more than {span.num_layers} layers can have")
        is_tail = span.layers.end == span.num_layers
        way = f"{request.successor.node_id} {request.successor.address}"
        lanes = (f"decode {way}", f"prefill {way}")
        self._sessions[request.session] = _Session(request=request, owner=owner, is_tail=is_tail, lanes=lanes)
        self._closed.pop(request.session, None)
        return SessionSpec(
            session=request.session,
            span=span.key,
            num_prompt_tokens=request.num_prompt_tokens,
            max_total_tokens=request.max_total_tokens,
            sampling=request.sampling if is_tail else None,
            stop_token_ids=request.stop_token_ids if is_tail else frozenset(),
            prompt_token_ids=request.prompt_token_ids if is_tail else (),
            block_hashes=request.block_hashes,
            scope=scope,
            num_stages=request.num_stages,
        )

    def span_of(self, rows: Rows) -> HostedSpan | None:
        """The span that a frame is for; None where it is to be dropped (of a closed session or an older epoch).

        Raises:
            UnknownSessionError: if the session was never open here.
        """
        session = self._sessions.get(rows.session)
        if session is None:
            if rows.session in self._closed:
                return None
            raise UnknownSessionError(f"session {rows.session:016x} is not open on this node")
        return self._spans[session.request.model_id] if rows.epoch == session.request.epoch else None

    def stepped(self, output: StepOutput) -> list[Action]:
        """What follows from one step of the engine; rows of sessions closed meanwhile are left out."""
        actions: list[Action] = []
        for rows, error in output.failed:
            actions += self.fail(rows.session, error)
        if output.sampled:
            actions += self._deliveries(output.sampled)
            actions += self._returns(output.sampled)
        actions += self._forwards(output.rows)
        return actions

    def fail(self, session: int, error: OsaiError) -> list[Action]:
        """End a session here and tell its owner; nothing where it is not open."""
        entry = self._sessions.get(session)
        if entry is None:
            return []
        fail = Fail(owner=entry.owner, session=session, epoch=entry.request.epoch, error=error)
        return [fail, *self.close(session)]

    def num_nameable_blocks(self, session: int, owner: int) -> int:
        """How many full blocks of a session's KV `owner` may name for later sessions.

        A name is a claim that nobody can check. None of another's sessions, therefore: whoever lies harms the sessions
        of its own scope alone.
        """
        entry = self._sessions.get(session)
        return entry.request.max_total_tokens // BLOCK_TOKENS if entry and entry.owner == owner else 0

    def close(self, session: int, block_hashes: tuple[bytes, ...] = ()) -> list[Release]:
        """Forget a session; nothing where it is not open."""
        if self._sessions.pop(session, None) is None:
            return []
        self._closed[session] = None
        while len(self._closed) > NUM_REMEMBERED_CLOSED:
            self._closed.popitem(last=False)
        return [Release(session=session, block_hashes=block_hashes)]

    def owner_lost(self, owner: int) -> list[Action]:
        """The coordinator's link broke: its sessions end here."""
        gone = [session for session, entry in self._sessions.items() if entry.owner == owner]
        return [action for session in gone for action in self.close(session)]

    def peer_lost(self, node_id: str) -> list[Action]:
        """The link to a successor broke: the sessions that push to it can't go on."""
        error = UnavailableError(f"node {node_id} was lost; try again", subject=node_id)
        hit = [session for session, entry in self._sessions.items() if entry.request.successor.node_id == node_id]
        return [action for session in hit for action in self.fail(session, error)]

    def _live(self, session: int, epoch: int) -> _Session | None:
        entry = self._sessions.get(session)
        return entry if entry is not None and entry.request.epoch == epoch else None

    def _deliveries(self, sampled: Iterable[Sampled]) -> Iterator[Action]:
        by_owner: dict[int, list[Sampled]] = {}
        for token in sampled:
            if entry := self._live(token.session, token.epoch):
                by_owner.setdefault(entry.owner, []).append(token)
        for owner, tokens in by_owner.items():
            yield Deliver(owner=owner, tokens=tuple(tokens))

    def _returns(self, sampled: Iterable[Sampled]) -> Iterator[Action]:
        by_head: dict[Peer, list[tuple[Rows, int]]] = {}
        for token in sampled:
            if token.finish is None and (entry := self._live(token.session, token.epoch)):
                position = entry.request.num_prompt_tokens + token.index
                rows = Rows(session=token.session, epoch=token.epoch, position=position, count=1)
                by_head.setdefault(entry.request.successor, []).append((rows, token.token_id))
        for peer, pairs in by_head.items():
            yield Return(peer=peer, rows=tuple(rows for rows, _ in pairs), token_ids=tuple(ids for _, ids in pairs))

    def _forwards(self, rows: tuple[Rows, ...]) -> Iterator[Action]:
        lanes = [self._lane(part) for part in rows]
        if lanes and lanes.count(lanes[0]) == len(lanes):  # mostly all go the same way: nothing to be sorted
            yield from self._forward(lanes[0], rows, ((0, sum(part.count for part in rows)),))
            return
        groups: dict[str, tuple[list[Rows], list[tuple[int, int]]]] = {}
        at = 0
        for lane, part in zip(lanes, rows, strict=True):
            parts, slices = groups.setdefault(lane, ([], []))
            parts.append(part)
            begin = slices.pop()[0] if slices and slices[-1][1] == at else at  # neighbours are one slice
            at += part.count
            slices.append((begin, at))
        for lane, (parts, slices) in groups.items():
            yield from self._forward(lane, tuple(parts), tuple(slices))

    def _forward(self, lane: str, rows: tuple[Rows, ...], slices: tuple[tuple[int, int], ...]) -> Iterator[Action]:
        if lane:
            entry = self._sessions[rows[0].session]
            yield Forward(peer=entry.request.successor, prefill=lane == entry.lanes[1], rows=rows, slices=slices)

    def _lane(self, rows: Rows) -> str:
        """The way that rows take from here; empty where they end here."""
        entry = self._sessions.get(rows.session)
        if entry is None or entry.is_tail or entry.request.epoch != rows.epoch:
            return ""
        # the prompt's last row too, alone or not: rows of one session must not overtake each other
        return entry.lanes[rows.count > 1 or rows.position < entry.request.num_prompt_tokens]
