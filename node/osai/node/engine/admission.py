"""What the event loop knows of hosted spans and open sessions, and whom it lets in."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from osai.core.errors import BadFrameError, InvalidRequestError, UnknownModelError, UnknownSessionError
from osai.node.engine.api import Input, SessionSpec
from osai.node.engine.input_checks import check_data
from osai.node.engine.kv_span import SpanKV
from osai.node.engine.options import SpanInfo
from osai.node.engine.session import Session, TailState, tail_state
from osai.node.engine.span_model import SpanModel


@dataclass(slots=True, eq=False)
class AdmittedSpan:
    """A hosted span: its model, what was said of it, and its KV blocks."""

    model: SpanModel
    info: SpanInfo
    kv: SpanKV
    sessions: dict[int, Session] = field(default_factory=dict)


class Admission:
    """Spans and sessions by their names. A session holds KV blocks for all of its tokens from the first on."""

    def __init__(self) -> None:
        self._spans: dict[str, AdmittedSpan] = {}
        self._sessions: dict[int, Session] = {}

    def add_span(self, model: SpanModel, info: SpanInfo, kv: SpanKV) -> None:
        """Let sessions of a span come."""
        self._spans[info.key] = AdmittedSpan(model, info, kv)

    def remove_span(self, key: str) -> None:
        """Forget a span, whose sessions must be closed."""
        del self._spans[key]

    def has_span(self, key: str) -> bool:
        """Whether a span of that key is hosted."""
        return key in self._spans

    def span(self, key: str) -> AdmittedSpan:
        """The span of that key.

        Raises:
            UnknownModelError: if it is not hosted.
        """
        if key not in self._spans:
            raise UnknownModelError(f"span {key} is not hosted here; {sorted(self._spans) or 'none'} is", subject=key)
        return self._spans[key]

    def find(self, session: int) -> Session | None:
        """The open session of that number."""
        return self._sessions.get(session)

    def session(self, session: int) -> Session:
        """The open session of that number.

        Raises:
            UnknownSessionError: if there is none.
        """
        if session not in self._sessions:
            raise UnknownSessionError(f"session {session} is not open here")
        return self._sessions[session]

    def open(self, spec: SessionSpec) -> Session:
        """Admit a session.

        Raises:
            InvalidRequestError: if it is open already, its numbers make no sense, or it could never fit.
            UnknownModelError: if the span is not hosted.
            ResourceExhaustedError: if the span has too few free blocks.
        """
        span = self.span(spec.span)
        if spec.session in self._sessions:
            raise InvalidRequestError(f"session {spec.session} is open already; close it first")
        if not 0 < spec.num_prompt_tokens < spec.max_total_tokens:
            raise InvalidRequestError(
                f"session {spec.session}: a prompt of {spec.num_prompt_tokens} tokens is empty, or leaves no room to "
                f"generate within {spec.max_total_tokens}"
            )
        _check_known(spec)
        tail = tail_state(spec, span.model.vocab_size) if span.model.is_tail else None
        kv = span.kv.open(spec)
        session = Session(spec, kv, tail, next_position=kv.blocks.num_computed)
        self._sessions[spec.session] = span.sessions[spec.session] = session
        return session

    def check_resume(self, spec: SessionSpec, position: int) -> tuple[Session, TailState | None]:
        """The open session of a spec that goes on from `position`, and its tail's state to come.

        Raises:
            UnknownSessionError: if it is not open.
            InvalidRequestError: if the spec is one of another session, or the position none to go on from.
        """
        session, old = self.session(spec.session), self.session(spec.session).spec
        kept = (spec.span, spec.num_prompt_tokens, spec.max_total_tokens)
        if kept != (old.span, old.num_prompt_tokens, old.max_total_tokens):
            raise InvalidRequestError(
                f"session {spec.session} has {old.num_prompt_tokens} prompt tokens and {old.max_total_tokens} in all "
                f"on span {old.span}, and can't go on with others: close it and open it anew"
            )
        _check_known(spec)
        if not 0 <= position <= min(session.next_position, spec.num_known_tokens - 1):
            raise InvalidRequestError(
                f"session {spec.session} is at {session.next_position} and goes on with {spec.num_known_tokens} known "
                f"tokens: not from {position}"
            )
        if spec.pooling:
            raise InvalidRequestError(f"session {spec.session}: a vector is made in one go; begin it anew")
        model = self._spans[spec.span].model
        return session, tail_state(spec, model.vocab_size) if model.is_tail else None

    def check_cut(self, session: Session, position: int) -> None:
        """Whether a session can be cut back now; raises as SpanKV.check_cut does."""
        self._spans[session.spec.span].kv.check_cut(session.kv, position)

    def cut(self, session: Session, position: int) -> None:
        """Cut back a session of which no rows from `position` on wait; raises as SpanKV.cut does."""
        self._spans[session.spec.span].kv.cut(session.kv, position)
        session.next_position = position

    def close(self, session: Session, block_hashes: Sequence[bytes] = (), *, has_failed: bool = False) -> None:
        """Forget a session; its blocks are free, and stay known by `block_hashes` unless it failed."""
        span = self._spans[session.spec.span]
        del self._sessions[session.spec.session], span.sessions[session.spec.session]
        span.kv.close(session.kv, block_hashes, has_failed=has_failed)

    def check_input(self, inp: Input) -> Session:
        """The session to which rows belong, if they fit: at its next position or before it, and within its limit.

        Raises:
            UnknownSessionError: if the session is not open.
            BadFrameError: if the rows leave a gap, pass max_total_tokens, or their data are wrong.
        """
        rows = inp.rows
        session = self.session(rows.session)
        end, limit = rows.position + rows.count, session.spec.max_total_tokens
        if not 0 <= rows.position <= session.next_position:
            raise BadFrameError(
                f"session {rows.session}: rows at position {rows.position} leave a gap, {session.next_position} is next"
            )
        if rows.count < 1 or end > limit:
            raise BadFrameError(
                f"session {rows.session}: {rows.count} rows from position {rows.position} on; at least 1 must come, "
                f"and none past {limit}"
            )
        check_data(inp, self._spans[session.spec.span].model)
        return session


def _check_known(spec: SessionSpec) -> None:
    if not spec.num_prompt_tokens <= spec.num_known_tokens <= spec.max_total_tokens:
        raise InvalidRequestError(
            f"session {spec.session}: {spec.num_known_tokens} known tokens; they are the {spec.num_prompt_tokens} of "
            f"the prompt at least, and {spec.max_total_tokens} at most"
        )
