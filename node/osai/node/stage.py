"""The sessions that cross this node, and what follows from each event. Pure: no I/O, no clock, no tensors.

The shell (osai.node.ring) feeds it what arrives and carries out the actions that it returns.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from osai.core.errors import AssignmentError, OsaiError, UnavailableError, UnknownSessionError
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Rows, Sampled, SessionSpec, StepOutput

NUM_REMEMBERED_CLOSED = 4096  # frames of a session may still be on their way when it closes


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A node on an edge: its id and HOST:PORT."""

    node_id: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedSpan:
    """A span that this node serves.

    Attributes:
        key: the engine's name for it; here the model's id, since a node hosts one span of a model.
        manifest_digest: SHA-256 of the manifest's signed part; every stage of a pipeline must have the same.
    """

    key: str
    layers: LayerRange
    num_layers: int
    manifest_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """A coordinator's wish to run a session through this stage."""

    session: int
    epoch: int
    model_id: str
    layers: LayerRange
    manifest_digest: bytes
    successor: Peer
    num_prompt_tokens: int
    max_total_tokens: int
    sampling: SamplingParams
    stop_token_ids: frozenset[int]
    prompt_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Push hidden rows to the successor; `slices` are their places in the step's hidden states."""

    peer: Peer
    prefill: bool
    rows: tuple[Rows, ...]
    slices: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """Give drawn tokens back to the head as its next input."""

    peer: Peer
    rows: tuple[Rows, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Give drawn tokens to the coordinator that owns their sessions."""

    owner: int
    tokens: tuple[Sampled, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Tell the owner that a session can't go on."""

    owner: int
    session: int
    epoch: int
    error: OsaiError


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Free what the engine holds of a session."""

    session: int


Action = Forward | Return | Deliver | Fail | Release


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    request: OpenRequest
    owner: int
    is_tail: bool


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

    def open(self, request: OpenRequest, owner: int) -> SessionSpec:
        """Take a session; the caller opens it in the engine, and calls `close` if that fails.

        Args:
            request: what the coordinator asks for.
            owner: number of the link it came by; the session ends with that link.

        Raises:
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
        is_tail = span.layers.end == span.num_layers
        self._sessions[request.session] = _Session(request=request, owner=owner, is_tail=is_tail)
        self._closed.pop(request.session, None)
        return SessionSpec(
            session=request.session,
            span=span.key,
            num_prompt_tokens=request.num_prompt_tokens,
            max_total_tokens=request.max_total_tokens,
            sampling=request.sampling if is_tail else None,
            stop_token_ids=request.stop_token_ids if is_tail else frozenset(),
            prompt_token_ids=request.prompt_token_ids if is_tail else (),
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

    def close(self, session: int) -> list[Action]:
        """Forget a session; nothing where it is not open."""
        if self._sessions.pop(session, None) is None:
            return []
        self._closed[session] = None
        while len(self._closed) > NUM_REMEMBERED_CLOSED:
            self._closed.popitem(last=False)
        return [Release(session=session)]

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

    def _forwards(self, rows: Iterable[Rows]) -> Iterator[Action]:
        groups: dict[tuple[Peer, bool], list[tuple[Rows, tuple[int, int]]]] = {}
        at = 0
        for part in rows:
            place = (at, at + part.count)
            at += part.count
            entry = self._live(part.session, part.epoch)
            if entry is not None and not entry.is_tail:
                # the prompt's last row too, alone or not: rows of one session must not overtake each other
                prefill = part.count > 1 or part.position < entry.request.num_prompt_tokens
                groups.setdefault((entry.request.successor, prefill), []).append((part, place))
        for (peer, prefill), parts in groups.items():
            yield Forward(
                peer=peer, prefill=prefill, rows=tuple(p for p, _ in parts), slices=tuple(place for _, place in parts)
            )
