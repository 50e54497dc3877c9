"""One request as spans: its own, and one for each phase. Pure: it is told the time.

Without a caller's span the trace is the session's own, so that the spans of its stages fall into it. With one the
request's span is the caller's child, and links to the session's trace.
"""

from dataclasses import replace

from osai.coordinator.api import Chunk, Finished, GenerationEvent, Rerouted, Started
from osai.coordinator.tracing.phases import Phase
from osai.core.tracing.span import SpanData, SpanRef, session_root

MAX_PHASES = 256  # of one request: who is rerouted more often is told of the first ones
Value = str | int | float


class RequestTrace:
    """What is noted of one request.

    Args:
        operation: "generate" or "embed".
        caller: the span of whoever sent it; None where they sent none.
        own: names it where no session is opened.
        now_s: seconds since 1970.

    Attributes:
        is_finished: the generation came to its end.
    """

    def __init__(self, operation: str, caller: SpanRef | None, own: SpanRef, now_s: float) -> None:
        self._operation, self._caller, self._own = operation, caller, own
        self._begun_s = now_s
        self._session: SpanRef | None = None
        self._phase, self._phase_s = Phase.PLANNING, now_s
        self._phases: list[tuple[Phase, float, float]] = []
        self._attributes: dict[str, Value] = {}
        self._has_tokens = False
        self.is_finished = False

    def entered(self, phase: Phase, now_s: float) -> None:
        """A phase begins; the one before ends."""
        if phase is self._phase:
            return
        self._end_phase(now_s)
        self._phase, self._phase_s = phase, now_s

    def told(self, event: GenerationEvent, now_s: float) -> None:
        """The client is told something."""
        match event:
            case Started():
                self._started(event)
                self.entered(Phase.PREFILL, now_s)
            case Chunk() if event.tokens:
                self._has_tokens = True
                self.entered(Phase.DECODE, now_s)
            case Rerouted():
                lost_s = max(now_s - event.pause_s, self._phase_s)
                self.entered(Phase.RECOVERY, lost_s)
                self.entered(Phase.DECODE if self._has_tokens else Phase.PREFILL, now_s)
            case Finished():
                self.is_finished = True
                self._attributes |= {
                    "osai.finish_reason": event.reason,
                    "osai.num_generated_tokens": event.num_generated_tokens,
                    "osai.num_recoveries": event.num_recoveries,
                }

    def ended(self, now_s: float, *, error: str = "") -> list[SpanData]:
        """The request is over, with the code of an error if it failed; its spans, its own first."""
        self._end_phase(now_s)
        ref = self._session or self._own
        links = (self._session,) if self._session and self._caller else ()
        if self._caller is not None:
            ref = replace(self._caller, span_id=ref.span_id)
        whole = SpanData(
            name=self._operation,
            ref=ref,
            begun_s=self._begun_s,
            ended_s=now_s,
            parent=self._caller,
            kind="server",
            attributes=self._attributes,
            links=links,
            error=error,
        )
        parts = [
            whole.child(phase.value, f"{phase.value} {number}", begun_s, ended_s)
            for number, (phase, begun_s, ended_s) in enumerate(self._phases)
        ]
        return [whole, *parts]

    def _started(self, event: Started) -> None:
        if _is_session(event.session_id):
            self._session = session_root(int(event.session_id, 16))
        self._attributes |= {
            "osai.model": event.model_id,
            "osai.session": event.session_id,
            "osai.num_prompt_tokens": event.num_prompt_tokens,
            "osai.num_cached_tokens": event.num_cached_tokens,
            "osai.num_stages": len(event.pipeline),
        }

    def _end_phase(self, now_s: float) -> None:
        if len(self._phases) < MAX_PHASES:
            self._phases.append((self._phase, self._phase_s, now_s))


def _is_session(text: str) -> bool:
    try:
        int(text, 16)
    except ValueError:
        return False
    return True
