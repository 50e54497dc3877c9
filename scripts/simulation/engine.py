"""A node's engine: steps that take simulated time, over KV that is hashes."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from scripts.simulation.hosts import Host
from scripts.simulation.model import Layers, draw

from osai.core.errors import BadFrameError, ResourceExhaustedError, UnknownSessionError
from osai.core.layers import LayerRange
from osai.node.engine.api import Rows, Sampled, SessionSpec, StepOutput
from osai.node.engine.step_load import StepLoad, StepMeter

MAX_STEP_ROWS = 96  # prefill chunks are cut, as in the real engine
ROW_SHARE = 0.02  # of a step, for each further row

OnOutput = Callable[[StepOutput, list[int]], None]


@dataclass(slots=True, eq=False)
class _Session:
    spec: SessionSpec
    kv: Layers
    next_position: int = 0
    waiting: deque[tuple[Rows, list[int]]] = field(default_factory=deque)
    num_resumed: int = 0  # steps taken before the last time do not count


@dataclass(frozen=True, slots=True)
class _Part:
    session: _Session
    rows: Rows
    values: list[int]
    num_resumed: int


class SimulatedEngine:
    """One span.

    Args:
        host: whose time it takes.
        layers: of the span.
        is_tail: it draws tokens.
        layer_s: seconds of one layer of a step.
        num_kv_tokens: that there is room for.
        vocab_size: of the model.
        on_output: gets what each step gives, and the rows' values, packed.
    """

    def __init__(
        self,
        host: Host,
        layers: LayerRange,
        *,
        is_tail: bool,
        layer_s: float,
        num_kv_tokens: int,
        vocab_size: int,
        on_output: OnOutput,
    ) -> None:
        self._host = host
        self._layers = layers
        self._is_tail = is_tail
        self.step_time_s = layer_s * len(layers)
        self.slower = 1.0  # than usual, by this factor
        self._num_kv_tokens = self.num_free_kv_tokens = num_kv_tokens
        self._vocab_size = vocab_size
        self._on_output = on_output
        self._sessions: dict[int, _Session] = {}
        self._busy = False
        self._meter = StepMeter()

    @property
    def num_sessions(self) -> int:
        """Open here."""
        return len(self._sessions)

    def load(self) -> StepLoad:
        """How busy it is, and how fast of late."""
        num_waiting = sum(rows.count for each in self._sessions.values() for rows, _ in each.waiting)
        return self._meter.load(self._host.now_s(), num_waiting)

    def open(self, spec: SessionSpec) -> None:
        """Set KV aside.

        Raises:
            ResourceExhaustedError: if there is too little.
        """
        if spec.max_total_tokens > self.num_free_kv_tokens:
            raise ResourceExhaustedError(f"no room for {spec.max_total_tokens} tokens", subject=self._host.id)
        self.num_free_kv_tokens -= spec.max_total_tokens
        self._sessions[spec.session] = _Session(spec, Layers(self._layers))

    def resume(self, spec: SessionSpec, position: int) -> None:
        """Go on from `position` under another spec."""
        session = self._get(spec.session)
        session.spec = spec
        self._cut(session, position)

    def cut(self, number: int, position: int) -> None:
        """Forget rows from `position` on."""
        session = self._get(number)
        if position < session.next_position:
            self._cut(session, position)

    def release(self, number: int) -> None:
        """End a session."""
        session = self._sessions.pop(number, None)
        if session is not None:
            session.num_resumed += 1
            self.num_free_kv_tokens += session.spec.max_total_tokens

    def submit(self, rows: Rows, values: list[int]) -> None:
        """Rows for the next step.

        Raises:
            UnknownSessionError: if the session is not open.
            BadFrameError: if rows would be missing, or are too many.
        """
        session = self._get(rows.session)
        if rows.position > session.next_position:
            raise BadFrameError(f"rows at {rows.position} leave a gap, {session.next_position} is next")
        if rows.position + rows.count > session.spec.max_total_tokens:
            raise BadFrameError(f"{rows.count} rows from {rows.position} on are past the session's end")
        if rows.position < session.next_position:
            self._cut(session, rows.position)
        session.waiting.append((rows, values))
        session.next_position = rows.position + rows.count
        self._begin()

    def _get(self, number: int) -> _Session:
        if number not in self._sessions:
            raise UnknownSessionError(f"session {number:016x} is not open here")
        return self._sessions[number]

    def _cut(self, session: _Session, position: int) -> None:
        session.num_resumed += 1
        session.waiting.clear()
        session.kv.cut(position)
        session.next_position = min(position, session.kv.num_rows)

    def _begin(self) -> None:
        if self._busy:
            return
        parts = self._take()
        if not parts:
            return
        self._busy = True
        num_rows = sum(part.rows.count for part in parts)
        seconds = self.step_time_s * self.slower * (1 + ROW_SHARE * (num_rows - 1))
        self._meter.begun(self._host.now_s())
        self._host.after(seconds, self._end, parts)

    def _take(self) -> list[_Part]:
        parts, room = [], MAX_STEP_ROWS
        for session in self._sessions.values():
            while session.waiting and session.waiting[0][0].count <= room:
                rows, values = session.waiting.popleft()
                parts.append(_Part(session, rows, values, session.num_resumed))
                room -= rows.count
        return parts

    def _end(self, parts: list[_Part]) -> None:
        self._busy = False
        self._meter.ended(self._host.now_s(), is_decode=all(part.rows.count == 1 for part in parts))
        good = [part for part in parts if part.num_resumed == part.session.num_resumed]
        values: list[int] = []
        sampled: list[Sampled] = []
        for part in good:
            outputs = part.session.kv.run(part.values)
            values += outputs
            if self._is_tail and not part.session.waiting and (token := self._draw(part, outputs[-1])) is not None:
                sampled.append(token)
        self._begin()
        output = StepOutput(span="", rows=tuple(part.rows for part in good), hidden=None, sampled=tuple(sampled))
        self._on_output(output, values)

    def _draw(self, part: _Part, hidden: int) -> Sampled | None:
        spec, end = part.session.spec, part.rows.position + part.rows.count
        if end < spec.num_known_tokens or spec.sampling is None:
            return None
        index = end - spec.num_prompt_tokens
        token = draw(spec.sampling.seed, end, hidden, self._vocab_size)
        finish = "length" if end + 1 >= spec.max_total_tokens else None
        return Sampled(session=part.rows.session, epoch=part.rows.epoch, index=index, token_id=token, finish=finish)
