"""Which sessions of a span are decoding, who of them make the next step, and when the others will be back. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median_low

from osai.node.engine.api import Rows, SessionSpec

_QUIET_S = 1.0  # a session without a row for so long no longer counts as decoding: its pipeline has trouble ...
_QUIET_ROUNDS = 3.0  # ... unless its rounds are longer: then after so many of its last one ...
_MAX_QUIET_S = 20.0  # ... and in any case after so long
_AWAY_WEIGHT = 0.3  # of the newest time away in the expected one: follows a change within a few tokens
_MAX_AWAY_GROWTH = 2.0  # of the expected time away, that one token's counts for: one stall is no change
_SPARE_GROUPS = 0.25  # of a group that is counted as a whole one: steps are not all of one length

StepSeconds = Callable[[int], float | None]  # by number of rows


@dataclass(slots=True, eq=False)
class _Session:
    spec: SessionSpec
    began: int | None = None  # position of its first row: what came before it was here already
    arrived_s: float | None = None  # its last decode row
    active_until_s: float = float("-inf")  # it counts as decoding
    left_s: float | None = None  # the end of the step of its decode row; None while that is here
    away_s: float | None = None  # expected between leaving and coming back, if no prompt is in the way


@dataclass(frozen=True, slots=True)
class Away:
    """A decode row at other stages: when it left this one, and how long such rows are away as a rule."""

    left_s: float
    away_s: float

    def due_s(self, stretch: float = 1.0) -> float:
        """When it should be back, if its way takes `stretch` times as long as usual."""
        return self.left_s + stretch * self.away_s


@dataclass(frozen=True, slots=True)
class Group:
    """Sessions whose decode rows make a step, and how many more sessions it could take."""

    sessions: tuple[int, ...]
    room: int


class DecodingSessions:
    """The sessions of one span: who decodes, and where its row is.

    The sessions of a pipeline of s stages go round best in s groups, one for each stage to work at: if all went in one
    step, all other stages would be idle meanwhile. So a step takes a group, 1/s of those that decode, or more if the
    other stages are so fast that fewer groups keep this one busy. Who is left over makes the next step.
    """

    def __init__(self) -> None:
        self._sessions: dict[int, _Session] = {}
        self._prompts_s = float("-inf")  # when prompts last were in the way

    def open(self, spec: SessionSpec) -> None:
        """A session begins."""
        self._sessions[spec.session] = _Session(spec)

    def close(self, session: int) -> None:
        """A session ends; an unknown one is no error."""
        self._sessions.pop(session, None)

    def num_prompt_rows(self, session: int) -> int:
        """Rows of an open session's prompt that are run, first to last."""
        state = self._sessions[session]
        return state.spec.num_prompt_tokens - (state.began or 0)

    def prompts_wait(self, now_s: float) -> None:
        """Prompts wait or run: what comes round now takes longer than usual."""
        self._prompts_s = now_s

    def arrived(self, rows: Rows, now_s: float) -> None:
        """Rows of an open session have come. One row past the prompt is a decode row."""
        session = self._sessions[rows.session]
        if session.began is None:
            session.began = rows.position
        if rows.count > 1 or rows.position < session.spec.num_prompt_tokens:
            return
        round_s = now_s - session.arrived_s if session.arrived_s is not None else 0.0
        session.active_until_s = now_s + min(max(_QUIET_S, _QUIET_ROUNDS * round_s), _MAX_QUIET_S)
        if session.left_s is not None:
            away_s, known = now_s - session.left_s, session.away_s
            if known is None:
                session.away_s = away_s
            elif session.left_s > self._prompts_s:
                session.away_s = known + _AWAY_WEIGHT * (min(away_s, _MAX_AWAY_GROWTH * known) - known)
        session.arrived_s, session.left_s = now_s, None

    def left(self, sessions: Iterable[int], now_s: float) -> None:
        """A step with rows of these has ended."""
        for number in sessions:
            if (session := self._sessions.get(number)) is not None and session.arrived_s is not None:
                session.left_s = now_s

    def any_active(self, now_s: float) -> bool:
        """Whether any session is decoding."""
        return any(now_s <= session.active_until_s for session in self._sessions.values())

    def away(self, now_s: float) -> list[Away]:
        """The decode rows that should come back."""
        return [
            Away(s.left_s, s.away_s)
            for s in self._sessions.values()
            if s.left_s is not None and s.away_s is not None and now_s <= s.active_until_s
        ]

    def group(self, waiting: Iterable[int], now_s: float, step_seconds: StepSeconds) -> Group:
        """Those of the sessions `waiting` with one row each, longest first, that make the next step.

        The last row of a prompt goes in any case: its session is not in a group yet.
        """
        room = self._group_sizes(now_s, step_seconds)
        taken = []
        for number in waiting:
            session = self._sessions[number]
            if now_s <= session.active_until_s:
                if not room[session.spec.num_stages]:
                    continue
                room[session.spec.num_stages] -= 1
            taken.append(number)
        return Group(tuple(taken), sum(room.values()))

    def _group_sizes(self, now_s: float, step_seconds: StepSeconds) -> dict[int, int]:
        """Decoding sessions that make one group, by the number of stages of their pipelines."""
        active = [session for session in self._sessions.values() if now_s <= session.active_until_s]
        counts = Counter(session.spec.num_stages for session in active)
        sizes = {}
        for num_stages, count in counts.items():
            size = -(-count // num_stages)
            away = [s.away_s for s in active if s.spec.num_stages == num_stages and s.away_s is not None]
            if num_stages > 1 and away and (step_s := step_seconds(size)):
                num_groups = int(1 + median_low(away) / step_s + _SPARE_GROUPS)
                size = -(-count // min(num_groups, num_stages))
            sizes[num_stages] = size
        return sizes
