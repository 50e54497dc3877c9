"""A span for each prompt that goes through this stage, as a child of the request's. Pure but for the clocks.

The trace's id is a hash of the session's number (osai.core.tracing.span): nobody has to tell it.
"""

from collections.abc import Callable

from osai.core.tracing.exporting import Tracer
from osai.core.tracing.span import SpanData, session_root, stage_ref
from osai.node.engine_meter import PrefillSeen, Seen


class StageTraces:
    """Gives a tracer what the engine's meter sees of prompts.

    Args:
        tracer: takes the spans.
        node_id: of this node.
        layers: of a span, in words, by its key.
        clock: the meter's.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        tracer: Tracer,
        node_id: str,
        layers: Callable[[str], str],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._tracer = tracer
        self._node_id = node_id
        self._layers = layers
        self._clock = clock
        self._wall_clock = wall_clock

    def seen(self, seen: Seen) -> None:
        """The meter has seen something."""
        if not isinstance(seen, PrefillSeen):
            return
        ago_s = self._wall_clock() - self._clock()
        self._tracer.add(
            SpanData(
                name="stage prefill",
                ref=stage_ref(seen.session, self._node_id, seen.epoch),
                parent=session_root(seen.session),
                begun_s=seen.begun_s + ago_s,
                ended_s=seen.ended_s + ago_s,
                attributes={
                    "osai.session": f"{seen.session:016x}",
                    "osai.node": self._node_id,
                    "osai.model": seen.key,
                    "osai.layers": self._layers(seen.key),
                    "osai.epoch": seen.epoch,
                    "osai.num_rows": seen.num_rows,
                    "osai.num_cached_tokens": seen.num_cached_tokens,
                    "osai.queue_s": seen.queue_s,
                    "osai.compute_s": seen.compute_s,
                },
            )
        )
