"""Who may try to open a session next, where KV is short: one queue a model, first come, first served. Pure.

While nobody waits, every request tries at once. One that finds no room waits in the order of arrival, and from then on
only the head of the line tries: when a session of the model has ended here, and now and then besides, since another
coordinator's may have ended. Nobody overtakes, so that a long request is not starved by short ones; nobody holds KV on
one stage while it waits for another (a session opens on all stages or on none), so that no two can block each other.
"""

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from osai.core.errors import ResourceExhaustedError


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """Bounds of a model's queue.

    Attributes:
        max_queued: requests that wait at most; a longer line could not be served within the timeout by any pipeline
            worth having, and each takes a connection and its prompt's memory.
        timeout_s: how long a request waits at most, from its arrival; as long as people and their proxies put up with.
        retry_s: between tries of the head while no session ends here; soon enough to take what another coordinator's
            sessions leave, and seldom enough not to be felt by the nodes.
    """

    max_queued: int = 256
    timeout_s: float = 30.0
    retry_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Try:
    """Try to open the session now; tell with `admitted`, `refused` or `left` how it went."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """It is not to be had in time."""

    ticket: int
    error: ResourceExhaustedError


Action = Try | Refuse


@dataclass(slots=True, order=True)
class _Waiting:
    ticket: int
    deadline_s: float = field(compare=False)
    reason: str = field(default="others wait before it", compare=False)  # why it waits
    num_ended: int = field(default=0, compare=False)  # sessions of the model that had ended when it last tried


class AdmissionQueue:
    """The line of one model.

    Args:
        model_id: for messages.
        config: see QueueConfig.
        jitter: gives numbers in [0, 1), so that two coordinators that refused each other do not try in step for ever.
    """

    def __init__(self, model_id: str, config: QueueConfig, jitter: Callable[[], float]) -> None:
        self._model_id = model_id
        self._config = config
        self._jitter = jitter
        self._line: list[_Waiting] = []  # by ticket
        self._at_once: dict[int, _Waiting] = {}  # try without having waited
        self._admitted: set[int] = set()
        self._trying: int | None = None  # the head of the line, while it tries
        self._num_ended = 0  # sessions of the model
        self._retry_s = inf

    @property
    def num_queued(self) -> int:
        """Requests that wait."""
        return len(self._line)

    @property
    def wake_s(self) -> float:
        """When `tick` is due; infinite while nobody waits."""
        deadlines = (waiting.deadline_s for waiting in self._line if waiting.ticket != self._trying)
        return min(self._retry_s if self._trying is None and self._line else inf, *deadlines, inf)

    def arrive(self, ticket: int, now_s: float) -> list[Action]:
        """A request has come; tickets rise."""
        waiting = _Waiting(ticket, now_s + self._config.timeout_s)
        if self._line:
            return self._enqueue(waiting)
        self._at_once[ticket] = waiting
        return [self._try(waiting)]

    def admitted(self, ticket: int) -> list[Action]:
        """Its session is open: perhaps there is room for the next one too."""
        self._forget(ticket)
        self._admitted.add(ticket)
        return self._advance()

    def refused(self, ticket: int, reason: str, now_s: float) -> list[Action]:
        """No pipeline had room for it."""
        actions: list[Action] = []
        if waiting := self._at_once.pop(ticket, None):
            actions = self._enqueue(waiting)
        else:
            waiting = next(waiting for waiting in self._line if waiting.ticket == ticket)
            self._trying = None
        waiting.reason = reason
        self._retry_s = now_s + self._config.retry_s * (0.5 + self._jitter())
        actions += self._expired(now_s)
        return [*actions, *self._advance()] if waiting.num_ended < self._num_ended else actions

    def left(self, ticket: int) -> list[Action]:
        """Its client has gone, its session has ended, or it failed for another reason than room."""
        if ticket in self._admitted:
            self._admitted.remove(ticket)
            self._num_ended += 1
            return self._advance()
        was_first = bool(self._line) and ticket in (self._trying, self._line[0].ticket)
        self._forget(ticket)
        return self._advance() if was_first else []

    def tick(self, now_s: float) -> list[Action]:
        """Time passes."""
        actions = self._expired(now_s)
        return [*actions, *self._advance()] if now_s >= self._retry_s else actions

    def _enqueue(self, waiting: _Waiting) -> list[Action]:
        if len(self._line) >= self._config.max_queued:
            message = (
                f"no KV is free for this session of {self._model_id}, and {len(self._line)} requests wait already; "
                "try again later, or add nodes"
            )
            return [Refuse(waiting.ticket, ResourceExhaustedError(message))]
        insort(self._line, waiting)  # those that tried at once come back in any order
        return []

    def _expired(self, now_s: float) -> list[Action]:
        late = [w for w in self._line if w.deadline_s <= now_s and w.ticket != self._trying]
        for waiting in late:
            self._line.remove(waiting)
        return [Refuse(waiting.ticket, self._too_late(waiting)) for waiting in late]

    def _too_late(self, waiting: _Waiting) -> ResourceExhaustedError:
        return ResourceExhaustedError(
            f"no KV came free for this session of {self._model_id} within {self._config.timeout_s:g} s "
            f"({waiting.reason}); try again later, ask for fewer tokens, or add nodes"
        )

    def _forget(self, ticket: int) -> None:
        self._at_once.pop(ticket, None)
        self._line = [waiting for waiting in self._line if waiting.ticket != ticket]
        self._trying = None if self._trying == ticket else self._trying

    def _advance(self) -> list[Action]:
        """Let the head of the line try, unless it does."""
        if not self._line or self._trying is not None:
            return []
        self._trying, self._retry_s = self._line[0].ticket, inf
        return [self._try(self._line[0])]

    def _try(self, waiting: _Waiting) -> Try:
        waiting.num_ended = self._num_ended
        return Try(waiting.ticket)
