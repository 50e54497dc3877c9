"""Rows of one span that wait, session by session. Pure."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from osai.core.errors import InvalidRequestError, ResourceExhaustedError
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


class WaitingRows:
    """Each session's rows in their order; sessions in the order of their turns."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._inputs: dict[int, deque[Input]] = {}  # in the order of turns
        self._num_rows: dict[int, int] = {}
        self.num_waiting = 0

    def check_room(self, count: int, num_promised: int = 0) -> None:
        """See whether `count` more rows of a session may wait, besides those that wait and `num_promised` others.

        Raises:
            InvalidRequestError: if so many never may.
            ResourceExhaustedError: if there is no room for them now.
        """
        if count > self._max_rows:
            raise InvalidRequestError(
                f"{count} rows of one session would wait, and no more than {self._max_rows} may, all sessions "
                "together: send a shorter prompt, or raise the node's max_waiting_rows"
            )
        if (num_waiting := self.num_waiting + num_promised) + count > self._max_rows:
            raise ResourceExhaustedError(
                f"{num_waiting} rows wait for their step already, and {count} more would pass the limit of "
                f"{self._max_rows}: send them later"
            )

    def add(self, inp: Input) -> None:
        """Queue rows behind those of the same session. Raises as `check_room`."""
        self.check_room(inp.rows.count)
        self._inputs.setdefault(inp.rows.session, deque()).append(inp)
        self._count(inp.rows.session, inp.rows.count)

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

    def single(self) -> list[int]:
        """Sessions of which one row waits, in the order of turns."""
        return [session for session in self._inputs if self._num_rows[session] == 1]

    def several(self) -> list[int]:
        """Sessions of which more rows wait, in the order of turns."""
        return [session for session in self._inputs if self._num_rows[session] > 1]

    def take_each(self, sessions: Iterable[int]) -> list[Chunk]:
        """The one row of each of these sessions."""
        return [self._take(session, 1) for session in sessions]

    def take_by_turns(self, sessions: Iterable[int], budget: int) -> list[Chunk]:
        """Up to `budget` rows of these sessions, which come in the order of turns."""
        chunks = []
        for session in sessions:
            if budget == 0:
                break
            chunks.append(self._take(session, budget))
            budget -= chunks[-1].rows.count
        return chunks

    def _take(self, session: int, budget: int) -> Chunk:
        """Up to `budget` rows of a session, of one epoch; what is left of the session goes to the end of the line."""
        queue = self._inputs.pop(session)
        if len(queue) == 1 and (whole := queue[0].rows).count <= budget:  # as decode rows are: no time to lose
            self._count(session, -whole.count)
            return Chunk(whole, (queue[0].data,), is_newest=True)
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
