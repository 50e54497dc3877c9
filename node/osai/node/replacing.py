"""Spans that give way to others: they drain, are withdrawn, and what comes in their place is loaded. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from osai.node.membership_actions import Assigned, MembershipConfig, SpanStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the operator asked for.

    Attributes:
        named: models that were named.
        pinned: those whose layers were named too, "" where no model was.
    """

    named: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()

    def is_pinned(self, model_id: str) -> bool:
        """Whether the layers that are hosted of a model were asked for."""
        return (model_id if model_id in self.named else "") in self.pinned


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replacement:
    by: Assigned
    since_s: float
    is_withdrawing: bool = False


class Replacements:
    """Which spans drain, and what comes in their place."""

    def __init__(self, config: MembershipConfig, wishes: Wishes) -> None:
        self._config = config
        self._wishes = wishes
        self._draining: dict[str, _Replacement] = {}
        self._replaced_s: dict[str, float] = {}

    def span_for(self, assigned: Assigned, spans: Iterable[SpanStatus]) -> SpanStatus | None:
        """What an assignment comes in place of: the span of its model, else of the one that no wish names."""
        hosted = [span for span in spans if span.state != "failed"]
        same = next((span for span in hosted if span.model_id == assigned.model_id), None)
        unnamed = next((span for span in hosted if span.model_id not in self._wishes.named), None)
        return same or (None if assigned.model_id in self._wishes.named else unnamed)

    def begin(self, old: SpanStatus, by: Assigned, now_s: float) -> bool:
        """Let a span drain; not where it is pinned, in between, the same, or has just been told to move."""
        rest_s = self._config.replace_rest_s
        rested = by.urgent or now_s - self._replaced_s.get(old.model_id, now_s - rest_s) >= rest_s
        same = (old.model_id, old.layers) == (by.model_id, by.layers)
        if same or old.state != "ready" or not rested or self._wishes.is_pinned(old.model_id):
            return False
        self._draining[old.model_id] = _Replacement(by=by, since_s=now_s)
        self._replaced_s[by.model_id] = now_s
        return True

    def recall(self, old: SpanStatus, by: Assigned) -> bool:
        """Let a span that drains stay, as an assignment of the very same layers says; not once it is withdrawn."""
        replacement = self._draining.get(old.model_id)
        same = (old.model_id, old.layers) == (by.model_id, by.layers)
        if not same or replacement is None or replacement.is_withdrawing:
            return False
        del self._draining[old.model_id]
        return True

    def due(self, num_sessions: int, now_s: float) -> list[str]:
        """Models whose spans have no session left, or whose deadline is over; each is named once."""
        due = [
            model_id
            for model_id, replacement in self._draining.items()
            if not replacement.is_withdrawing and self._is_due(replacement, num_sessions, now_s)
        ]
        for model_id in due:
            self._draining[model_id] = replace(self._draining[model_id], is_withdrawing=True)
        return due

    def _is_due(self, replacement: _Replacement, num_sessions: int, now_s: float) -> bool:
        if replacement.by.urgent:  # sessions that are left wait for this very move
            return True
        waited_s = now_s - replacement.since_s
        return waited_s >= self._config.drain_notice_s and (
            num_sessions == 0 or waited_s >= self._config.drain_deadline_s
        )

    def end(self, model_id: str) -> Assigned | None:
        """A span has been withdrawn: what comes in its place."""
        replacement = self._draining.pop(model_id, None)
        return replacement.by if replacement else None
