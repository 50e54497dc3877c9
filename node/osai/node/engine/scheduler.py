"""Which waiting rows of a span make its next step, and when. Pure: it is told the time."""

from osai.node.engine.api import Input, SessionSpec
from osai.node.engine.options import StepLimits
from osai.node.engine.step_cost import StepCost
from osai.node.engine.step_groups import DecodingSessions
from osai.node.engine.step_load import StepLoad, StepMeter
from osai.node.engine.step_timing import merge_until, prompt_window
from osai.node.engine.waiting_rows import Chunk, WaitingRows

__all__ = ["Chunk", "StepScheduler"]


class StepScheduler:
    """Rows of one span that wait, and the rule by which they are taken.

    A session of which one row waits is decoding. Of these a step takes a group (see DecodingSessions), longest waiting
    first. With them go rows of prompts (or replays), which take turns: each takes what is left of the step's prefill
    budget, and who has more to do goes to the end of the line. A session's rows keep their order; neighbouring inputs
    of one epoch are taken as one.

    The prefill budget is `max_prefill_tokens` if nobody is decoding. Else it keeps others' tokens coming:
    - a step with decode rows takes at most `max_decode_stretch` times what it would take without prompts;
    - a step of prompts alone, while all decode rows are away at other stages, ends when the first of them is due. If
      that is too soon for any step, it is held back, and goes with them;
    - never less than `min_prefill_tokens`, so that each prompt comes to its end;
    - prompts of no more than `short_prompt_tokens` go first, up to `max_prefill_tokens` a step, whoever decodes.
    """

    def __init__(self, limits: StepLimits) -> None:
        self._limits = limits
        self._waiting = WaitingRows(limits.max_waiting_rows)
        self._decoding = DecodingSessions()
        self._running: tuple[Chunk, ...] = ()
        self._started_s = 0.0
        self._meter = StepMeter()
        self._held_since_s: float | None = None
        self.cost = StepCost()
        self._held_until_s: float | None = None

    @property
    def num_waiting(self) -> int:
        """Rows that wait."""
        return self._waiting.num_waiting

    @property
    def held_until_s(self) -> float | None:
        """Until when `next_step` gives nothing although rows wait, unless more come."""
        return self._held_until_s if self.num_waiting else None

    def load(self, now_s: float) -> StepLoad:
        """How busy the span is, and how fast of late."""
        return self._meter.load(now_s, self.num_waiting)

    def open(self, spec: SessionSpec) -> None:
        """A session begins."""
        self._decoding.open(spec)

    def close(self, session: int) -> None:
        """A session ends, and its rows are forgotten."""
        self._waiting.drop(session)
        self._decoding.close(session)

    def check_room(self, count: int, num_promised: int = 0) -> None:
        """See whether `count` more rows of a session may wait, besides those that wait and `num_promised` others.

        Raises:
            InvalidRequestError: if so many never may.
            ResourceExhaustedError: if there is no room for them now.
        """
        self._waiting.check_room(count, num_promised)

    def add(self, inp: Input, now_s: float) -> None:
        """Queue rows of an open session behind its others. Raises as `check_room`."""
        self._waiting.add(inp)
        self._decoding.arrived(inp.rows, now_s)

    def drop(self, session: int, position: int = 0) -> None:
        """Forget a session's waiting rows at `position` and later."""
        self._waiting.drop(session, position)

    def next_step(self, now_s: float) -> tuple[Chunk, ...]:
        """Take the rows of the next step, decoding sessions first; empty if nothing waits, or it is held back."""
        self._held_until_s = None
        single, several = self._waiting.single(), self._waiting.several()
        group = self._decoding.group(single, now_s, self.cost.predict) if single else None
        if group and (until_s := self._merge_until(len(group.sessions), group.room, now_s)) is not None:
            return self._hold(now_s, until_s)
        sessions = group.sessions if group else ()
        short = [s for s in several if self._decoding.num_prompt_rows(s) <= self._limits.short_prompt_tokens]
        long, budget = [s for s in several if s not in short], 0
        if several:
            self._decoding.prompts_wait(now_s)
        if long:
            budget = self._prefill_budget(len(sessions), now_s)
            if not budget and not short:
                return ()
        chunks = (*self._waiting.take_each(sessions), *self._take_prompts(short, long, budget))
        self._held_until_s = None
        self._running, self._started_s, self._held_since_s = chunks, now_s, None
        if chunks:
            self._meter.begun(now_s)
        return chunks

    def _take_prompts(self, short: list[int], long: list[int], budget: int) -> list[Chunk]:
        """Rows of short prompts as far as they fit, then of long ones: `budget` in all, or their least."""
        limits = self._limits
        room = limits.max_prefill_tokens - (min(budget, limits.min_prefill_tokens) if long else 0)
        chunks = self._waiting.take_by_turns(short, room)
        num_taken = sum(chunk.rows.count for chunk in chunks)
        left = max(budget - num_taken, min(budget, limits.min_prefill_tokens))
        return chunks + self._waiting.take_by_turns(long, min(left, limits.max_prefill_tokens - num_taken))

    def step_ended(self, now_s: float) -> None:
        """The step that was taken last, if any, has ended."""
        if self._running:
            self.cost.observe(sum(chunk.rows.count for chunk in self._running), now_s - self._started_s)
            self._meter.ended(now_s, is_decode=all(chunk.rows.count == 1 for chunk in self._running))
            self._decoding.left([chunk.rows.session for chunk in self._running], now_s)
            self._running = ()

    def _merge_until(self, num_decode: int, room: int, now_s: float) -> float | None:
        step_s = self.cost.predict(num_decode)
        if not room or step_s is None:
            return None
        until_s = merge_until(now_s, num_decode, room, self._decoding.away(now_s), step_s)
        if until_s is not None:  # not longer than a step in all, however often it looks worth while anew
            until_s = min(until_s, (now_s if self._held_since_s is None else self._held_since_s) + step_s)
        return until_s if until_s is not None and until_s > now_s else None

    def _hold(self, now_s: float, until_s: float) -> tuple[Chunk, ...]:
        if self._held_since_s is None:
            self._held_since_s = now_s
        self._held_until_s = until_s
        return ()

    def _prefill_budget(self, num_decode: int, now_s: float) -> int:
        """Rows of prompts for the next step; 0 to hold it back."""
        limits = self._limits
        if not self._decoding.any_active(now_s):
            return limits.max_prefill_tokens
        decode_s = self.cost.predict(max(num_decode, 1))
        if decode_s is None:  # before the first step
            return limits.min_prefill_tokens
        most = num_decode + limits.max_prefill_tokens
        if not num_decode:
            window = prompt_window(now_s, self._decoding.away(now_s), decode_s, limits.max_decode_stretch)
            if window is not None:
                fits = self.cost.max_rows(window[0] - now_s, most)
                if fits < limits.min_prefill_tokens:
                    self._hold(now_s, window[1])
                    return 0
                return fits
        fits = self.cost.max_rows(limits.max_decode_stretch * decode_s, most)
        return max(fits - num_decode, limits.min_prefill_tokens)
