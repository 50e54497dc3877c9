"""When a node that is there is not to be relied on: slow against its own record, stuck in a step, silent. Pure.

It goes by the lengths of steps, which a node measures, and by this coordinator's clock: what a node's clock shows does
not matter.
"""

import math

from osai.coordinator.swarm_state import NodeState, SpanState
from osai.core.layers import LayerRange

SLOW_TIMES = 10.0  # its own best step time, a node is slow
WELL_TIMES = 5.0  # below which one that was slow is so no more
LEAST_STEP_S = 0.001  # best times below count as this: of so short a step ten times as much is a busy moment's
MAX_STEP_S = 2.0  # in one step, or SLOW_TIMES its time where that is more, a node is stuck
SILENT_S = 5.0  # two heartbeats are missed
HOLD_S = 5.0  # a suspect stays one for so long after its last bad sign: two heartbeats say that it is well

_Key = tuple[str, LayerRange, bytes, str]


class Watch:
    """What this coordinator has seen of one node."""

    def __init__(self) -> None:
        self._best_s: dict[_Key, float] = {}
        self._slow: frozenset[_Key] = frozenset()
        self._beat_s: float | None = None  # its last word on this coordinator's own control stream
        self._bad_s = -math.inf

    def told(self, node: NodeState, now_s: float, *, directly: bool) -> None:
        """A new record, by heartbeat (`directly`) or out of the DHT."""
        if directly:
            if self._is_silent(now_s):
                self._bad_s = now_s
            self._beat_s = now_s
        spans = {_key(span): span for span in node.spans if span.state in ("ready", "draining")}
        self._best_s = {key: _best(span, self._best_s.get(key, math.inf)) for key, span in spans.items()}
        self._slow = frozenset(key for key, span in spans.items() if self._is_slow(key, span))
        if self._slow or any(_is_stuck(span) for span in spans.values()):
            self._bad_s = now_s

    def is_suspect(self, now_s: float) -> bool:
        """Whether to use it only where no other way is."""
        return now_s - self._bad_s < HOLD_S or self._is_silent(now_s)

    @property
    def is_here(self) -> bool:
        """Whether it has a control stream to this coordinator."""
        return self._beat_s is not None

    def _is_silent(self, now_s: float) -> bool:
        return self._beat_s is not None and now_s - self._beat_s > SILENT_S

    def _is_slow(self, key: _Key, span: SpanState) -> bool:
        times = WELL_TIMES if key in self._slow else SLOW_TIMES
        return span.recent_step_s >= times * max(self._best_s[key], LEAST_STEP_S)


def _key(span: SpanState) -> _Key:
    return span.model_id, span.layers, span.manifest_digest, span.dtype


def _best(span: SpanState, before_s: float) -> float:
    """The least step time that was seen or announced; a span that has told of none is not slow yet."""
    return min(time_s for time_s in (before_s, span.step_time_s, span.recent_step_s) if time_s > 0)


def _is_stuck(span: SpanState) -> bool:
    usual_s = max(span.step_time_s, span.recent_step_s)
    return span.step_in_hand_s > max(MAX_STEP_S, SLOW_TIMES * usual_s)
