"""What an engine's steps were made of, and what a session's prompt spent on this stage. Pure: it is told the time."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from osai.node.engine.api import Rows, SessionSpec, StepOutput
from osai.node.engine.options import SpanInfo

MAX_SESSIONS = 65536  # that are followed; the oldest is forgotten first


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSeen:
    """One step of a span.

    Attributes:
        key: the span's.
        num_prompt_rows: rows of prompts among `num_rows`.
        step_s: seconds in the engine thread.
        waits_s: for how long the rows of each of its sessions had waited.
    """

    key: str
    num_rows: int
    num_prompt_rows: int
    step_s: float
    waits_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillSeen:
    """A session's prompt has gone through this stage.

    Attributes:
        key: the span's.
        begun_s: when its first rows came, on the meter's clock.
        ended_s: when its last step landed.
        queue_s: that rows of it waited while no step of its own ran.
        compute_s: of the steps that had rows of it; others may have shared them.
        num_rows: that were run.
        num_cached_tokens: of the prompt, whose KV was there already.
    """

    session: int
    epoch: int
    key: str
    begun_s: float
    ended_s: float
    queue_s: float
    compute_s: float
    num_rows: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A session is open.

    Attributes:
        num_cached_tokens: of its prompt, whose KV was there already.
    """

    key: str
    num_prompt_tokens: int
    num_cached_tokens: int


Seen = StepSeen | PrefillSeen | Opened


@dataclass(slots=True)
class _Session:
    key: str
    num_prompt_tokens: int
    num_cached: int
    waiting: deque[tuple[int, float]] = field(default_factory=deque)  # rows before a position, and since when
    begun_s: float | None = None
    free_s: float = 0.0  # when its last step ended
    queue_s: float = 0.0
    compute_s: float = 0.0
    num_rows: int = 0
    is_past_prompt: bool = False


class EngineMeter:
    """Follows one engine.

    Args:
        tell: get what is seen, each of them everything.

    Attributes:
        num_tokens: rows that the steps have run, one a token.
    """

    def __init__(self, tell: Sequence[Callable[[Seen], None]] = ()) -> None:
        self._tell = tell
        self._sessions: dict[int, _Session] = {}
        self._spans: dict[str, SpanInfo] = {}
        self.num_tokens = 0

    @property
    def spans(self) -> tuple[SpanInfo, ...]:
        """The spans that the engine hosts."""
        return tuple(self._spans.values())

    def num_sessions(self, key: str) -> int:
        """Sessions open on a span."""
        return sum(session.key == key for session in self._sessions.values())

    def hosted(self, info: SpanInfo) -> None:
        """The engine hosts a span."""
        self._spans[info.key] = info

    def removed(self, key: str) -> None:
        """It hosts it no more, and its sessions have ended."""
        self._spans.pop(key, None)
        for number in [number for number, session in self._sessions.items() if session.key == key]:
            del self._sessions[number]

    def opened(self, spec: SessionSpec, num_cached: int) -> None:
        """A session has begun."""
        if len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[spec.session] = _Session(spec.span, spec.num_prompt_tokens, num_cached)
        self._say(Opened(key=spec.span, num_prompt_tokens=spec.num_prompt_tokens, num_cached_tokens=num_cached))

    def released(self, number: int) -> None:
        """A session has ended; an unknown one is no error."""
        self._sessions.pop(number, None)

    def submitted(self, rows: Rows, now_s: float) -> None:
        """Rows wait for their step; those that were to follow an earlier position are dropped."""
        session = self._sessions.get(rows.session)
        if session is None:
            return
        while session.waiting and session.waiting[-1][0] > rows.position:
            session.waiting.pop()
        session.waiting.append((rows.position + rows.count, now_s))
        if session.begun_s is None:
            session.begun_s = now_s

    def stepped(self, output: StepOutput, now_s: float) -> None:
        """A step has landed."""
        begun_s, waits, num_prompt_rows = now_s - output.step_time_s, [], 0
        for rows in output.rows:
            session = self._sessions.get(rows.session)
            if session is None:
                continue
            came_s = _taken(session.waiting, rows, begun_s)
            waits.append(max(begun_s - came_s, 0.0))
            num_prompt_rows += max(min(rows.position + rows.count, session.num_prompt_tokens) - rows.position, 0)
            if not session.is_past_prompt:
                self._prompt_ran(session, rows, came_s, begun_s, now_s)
        for rows, _ in output.failed:
            self.released(rows.session)
        num_rows = sum(rows.count for rows in output.rows)
        self.num_tokens += num_rows
        self._say(
            StepSeen(
                key=output.span,
                num_rows=num_rows,
                num_prompt_rows=num_prompt_rows,
                step_s=output.step_time_s,
                waits_s=tuple(waits),
            )
        )

    def _prompt_ran(self, session: _Session, rows: Rows, came_s: float, begun_s: float, now_s: float) -> None:
        session.queue_s += max(begun_s - max(session.free_s, came_s), 0.0)
        session.compute_s += now_s - begun_s
        session.free_s = now_s
        session.num_rows += rows.count
        session.is_past_prompt = rows.position + rows.count >= session.num_prompt_tokens
        if session.is_past_prompt:
            self._say(
                PrefillSeen(
                    session=rows.session,
                    epoch=rows.epoch,
                    key=session.key,
                    begun_s=came_s if session.begun_s is None else session.begun_s,
                    ended_s=now_s,
                    queue_s=session.queue_s,
                    compute_s=session.compute_s,
                    num_rows=session.num_rows,
                    num_cached_tokens=session.num_cached,
                )
            )

    def _say(self, seen: Seen) -> None:
        for tell in self._tell:
            tell(seen)


def _taken(waiting: deque[tuple[int, float]], rows: Rows, begun_s: float) -> float:
    """Since when a step's rows had waited; what they leave nothing of is taken off."""
    came_s = begun_s
    while waiting and waiting[0][0] <= rows.position:
        waiting.popleft()
    if waiting:
        came_s = waiting[0][1]
    while waiting and waiting[0][0] <= rows.position + rows.count:
        waiting.popleft()
    return came_s
