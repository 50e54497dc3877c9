"""What the health page shows of one node. Pure."""

from dataclasses import dataclass

from osai.coordinator.api import NodeView, SpanView
from osai.coordinator.health.day import DayStrip, day_strip
from osai.coordinator.health.figures import Figures
from osai.coordinator.health.redaction import redacted
from osai.coordinator.health.wording import MAX_FAILURE, MAX_VERSION, MAX_WORD, duration, memory_size, rate, shortened
from osai.coordinator.history.past import NO_DAY

OPERATOR_DIGITS = 16  # of an operator's key that are shown: to tell operators apart, not to decide on trust
MAX_SPANS = 4  # of a node that are named, the others counted
UNNAMED = "unnamed"
_TROUBLE_FIRST = {"draining": 0, "joining": 1, "ready": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanLine:
    """One span of a node's row."""

    model: str
    layers: str
    dtype: str
    state: str
    verified: bool
    failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One node."""

    name: str
    short_id: str
    spans: tuple[SpanLine, ...]
    num_more_spans: int
    device: str
    memory: str
    state: str
    num_sessions: int
    tokens_per_s: str
    uptime: str
    software: str
    operator: str
    day: DayStrip


def rank(node: NodeView) -> tuple[bool, int, str, int, str]:
    """Sorts nodes: those in trouble first, then along the models' layers."""
    well = all(span.state == "ready" and span.verified for span in node.spans)
    first = min(((span.model_id, span.span.start) for span in node.spans), default=("", 0))
    return (well, _TROUBLE_FIRST.get(node.state, 0), *first, node.name)


def node_row(node: NodeView, figures: Figures | None = None) -> NodeRow:
    """What is shown of a node."""
    figures = figures or Figures()
    return NodeRow(
        name=public_name(node.name),
        short_id=redacted(node.node_id)[:8],
        spans=tuple(_line(span) for span in node.spans[:MAX_SPANS]),
        num_more_spans=max(0, len(node.spans) - MAX_SPANS),
        device=shortened(redacted(node.device)),
        memory=memory_size(node.memory_bytes),
        state=shortened(redacted(node.state), MAX_WORD),
        num_sessions=node.num_sessions,
        tokens_per_s=rate(figures.node_rates.get(node.node_id, 0.0)),
        uptime=duration(node.uptime_s),
        software=shortened(redacted(node.software), MAX_VERSION),
        operator=redacted(node.operator)[:OPERATOR_DIGITS],
        day=day_strip(figures.past.nodes.get(node.node_id, NO_DAY), figures.past.recorded),
    )


def public_name(name: str) -> str:
    """A node's name as it is shown."""
    return shortened(redacted(name)).strip() or UNNAMED


def _line(span: SpanView) -> SpanLine:
    return SpanLine(
        model=shortened(redacted(span.model_id)),
        layers=str(span.span),
        dtype=shortened(redacted(span.dtype), MAX_WORD),
        state=shortened(redacted(span.state), MAX_WORD),
        verified=span.verified,
        failure=shortened(redacted(span.failure), MAX_FAILURE),
    )
