"""Which waiting rows of a span make its next step."""

from collections import deque
from dataclasses import dataclass, replace

import torch

from osai.core.errors import ResourceExhaustedError
from osai.node.engine.api import Input, Rows


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one session that go into one step.

    Attributes:
        rows: whose they are.
        data: their data, as pieces of the inputs that brought them, in order.
        is_newest: nothing more of the session waits.
    """

    rows: Rows
    data: tuple[torch.Tensor, ...]
    is_newest: bool


class StepScheduler:
    """Rows of one span that wait, and the rule by which they are taken.

    A session of which one row waits is decoding: all of these go into every step, since they add little to it. What is
    left is prompts (or replays): they share `max_prefill_tokens` a step, each takes what is left of it when its turn
    comes, and who has more to do goes to the end of the line. So no session waits longer than one step for each one
    before it. A session's rows keep their order; neighbouring inputs of one epoch are taken as one.
    """

    def __init__(self, max_prefill_tokens: int, max_waiting_rows: int) -> None:
        self._max_prefill_tokens, self._max_waiting_rows = max_prefill_tokens, max_waiting_rows
        self._inputs: dict[int, deque[Input]] = {}  # in the order of turns
        self._num_rows: dict[int, int] = {}
        self.num_waiting = 0

    def add(self, inp: Input) -> None:
        """Queue rows behind those of the same session.

        Raises:
            ResourceExhaustedError: if more rows would wait than may.
        """
        count = inp.rows.count
        if self.num_waiting + count > self._max_waiting_rows:
            raise ResourceExhaustedError(
                f"{self.num_waiting} rows wait for their step already, and {count} more would pass the limit of "
                f"{self._max_waiting_rows}: send them later"
            )
        self._inputs.setdefault(inp.rows.session, deque()).append(inp)
        self._count(inp.rows.session, count)

    def drop(self, session: int, position: int = 0) -> None:
        """Forget a session's waiting rows at `position` and later."""
        queue = self._inputs.get(session, deque())
        while queue and queue[-1].rows.position >= position:
            self._count(session, -queue.pop().rows.count)
        if queue and (excess := queue[-1].rows.position + queue[-1].rows.count - position) > 0:
            queue.append(_head(queue.pop(), position))
            self._count(session, -excess)
        if not queue:
            self._inputs.pop(session, None)

    def next_step(self) -> tuple[Chunk, ...]:
        """Take the rows of the next step, decoding sessions first; empty if nothing waits."""
        decoding = [session for session in self._inputs if self._num_rows[session] == 1]
        prefilling = [session for session in self._inputs if self._num_rows[session] > 1]
        chunks = [self._take(session, 1) for session in decoding]
        budget = self._max_prefill_tokens
        for session in prefilling:
            if budget == 0:
                break
            chunks.append(self._take(session, budget))
            budget -= chunks[-1].rows.count
        return tuple(chunks)

    def _take(self, session: int, budget: int) -> Chunk:
        """Up to `budget` rows of a session, of one epoch; what is left of the session goes to the end of the line."""
        queue = self._inputs.pop(session)
        taken = [_take_head(queue, budget)]
        count = taken[0].rows.count
        while queue and queue[0].rows.epoch == taken[0].rows.epoch and count < budget:
            taken.append(_take_head(queue, budget - count))
            count += taken[-1].rows.count
        if queue:
            self._inputs[session] = queue
        self._count(session, -count)
        return Chunk(replace(taken[0].rows, count=count), tuple(inp.data for inp in taken), is_newest=not queue)

    def _count(self, session: int, change: int) -> None:
        self.num_waiting += change
        self._num_rows[session] = self._num_rows.get(session, 0) + change
        if self._num_rows[session] == 0:
            del self._num_rows[session]


def _take_head(queue: deque[Input], budget: int) -> Input:
    """Take the queue's first input, or its first `budget` rows."""
    first = queue.popleft()
    if first.rows.count <= budget:
        return first
    position = first.rows.position + budget
    rest = replace(first.rows, position=position, count=first.rows.count - budget)
    queue.appendleft(Input(rows=rest, data=first.data[budget:]))
    return _head(first, position)


def _head(inp: Input, position: int) -> Input:
    """The input's rows before `position`."""
    count = position - inp.rows.position
    return Input(rows=replace(inp.rows, count=count), data=inp.data[:count])
