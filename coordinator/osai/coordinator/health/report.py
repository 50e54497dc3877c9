"""`/api/v1/health`: what the page shows, as JSON. Pure."""

from collections.abc import Collection
from math import isfinite

from pydantic import BaseModel, ConfigDict, Field

from osai.coordinator.api import ModelView, NodeView, SwarmView
from osai.coordinator.health.badge import state_of
from osai.coordinator.health.cards import hosts_of, token_joules
from osai.coordinator.health.figures import Figures
from osai.coordinator.health.redaction import redacted
from osai.coordinator.health.wording import MAX_FAILURE, shortened
from osai.coordinator.history.past import CELL_MINUTES, NO_DAY, ModelPast

MAX_SPANS = 32  # of a node: a stranger's node may name more, and make the answer as long as it likes


class Part(BaseModel):
    """An object of the answer."""

    model_config = ConfigDict(frozen=True)


class Times(Part):
    """Seconds that half of them, and 95% of them, stay within; null where there were none."""

    p50_s: float | None
    p95_s: float | None


class ModelHealth(Part):
    """One model."""

    model_id: str
    state: str = Field(description="served, degraded (one departure can end that) or down")
    servable: bool
    signed: bool
    licence: str
    num_layers: int
    max_context: int
    replicas: list[int] = Field(description="Ready nodes, layer by layer.")
    num_queued: int
    tokens_per_s: float
    time_to_first_token: Times = Field(description="Of the last hour.")
    time_per_token: Times = Field(description="Of the last hour.")
    num_tokens_24h: int
    num_recoveries_24h: int
    energy_j_per_token: float | None = Field(description="An estimate; docs/health.md says how it is made.")
    servable_minutes: list[int] = Field(description="Of each half hour of the last 24 h.")


class SpanHealth(Part):
    """One span of a node: the layers from `start` up to `end`, without `end`."""

    model_id: str
    start: int
    end: int
    dtype: str
    state: str
    verified: bool
    failure: str


class NodeHealth(Part):
    """One node. It has no address here."""

    node_id: str
    name: str
    software: str
    device: str
    memory_bytes: int
    state: str
    operator: str
    num_sessions: int
    tokens_per_s: float
    uptime_s: float | None
    spans: list[SpanHealth]
    present_minutes: list[int] = Field(description="Of each half hour of the last 24 h.")


class ContributorHealth(Part):
    """Tokens that nodes of one public name had a part in; the empty name is that of all who gave none."""

    name: str
    num_nodes: int
    num_tokens_24h: int
    num_tokens_30d: int


class HistoryHealth(Part):
    """What there is of the past."""

    kept: bool = Field(description="Whether it is kept on disk; if not, it began with this coordinator.")
    since_s: int | None
    cell_s: int = CELL_MINUTES * 60
    watched_minutes: list[int] = Field(description="Minutes of each half hour that this coordinator has seen.")


class SwarmHealth(Part):
    """The swarm's health."""

    as_of_s: float
    coordinator_id: str
    software: str
    private: bool
    num_recoveries: int = Field(description="Since this coordinator started.")
    history: HistoryHealth
    models: list[ModelHealth]
    nodes: list[NodeHealth]
    contributors: list[ContributorHealth]


def swarm_health(
    view: SwarmView, figures: Figures, *, at_s: float, shown: Collection[str] | None = None
) -> SwarmHealth:
    """The swarm's health; `shown`: the models that the reader may see, None for all."""
    past, hosts = figures.past, hosts_of(view)
    return SwarmHealth(
        as_of_s=at_s,
        coordinator_id=redacted(view.coordinator_id),
        software=redacted(view.software),
        private=view.private,
        num_recoveries=figures.num_recoveries,
        history=HistoryHealth(
            kept=not past.trouble,
            since_s=None if past.since is None else past.since * 60,
            watched_minutes=list(past.recorded),
        ),
        models=[
            _model(model, figures, hosts.get(model.model_id, []))
            for model in view.models
            if shown is None or model.model_id in shown
        ],
        nodes=[_node(node, figures, shown) for node in view.nodes],
        contributors=[
            ContributorHealth(
                name=redacted(one.name),
                num_nodes=one.num_nodes,
                num_tokens_24h=one.tokens_day,
                num_tokens_30d=one.tokens_month,
            )
            for one in past.contributors
        ],
    )


def _model(model: ModelView, figures: Figures, hosts: list[tuple[str, int]]) -> ModelHealth:
    past = figures.past.models.get(model.model_id, ModelPast())
    return ModelHealth(
        model_id=model.model_id,
        state=state_of(model),
        servable=model.covered,
        signed=model.signed,
        licence=redacted(model.licence),
        num_layers=model.num_layers,
        max_context=model.max_context,
        replicas=list(model.replicas),
        num_queued=model.num_queued,
        tokens_per_s=round(figures.model_rates.get(model.model_id, 0.0), 3),
        time_to_first_token=Times(p50_s=past.hour.ttft.quantile(0.5), p95_s=past.hour.ttft.quantile(0.95)),
        time_per_token=Times(p50_s=past.hour.gaps.quantile(0.5), p95_s=past.hour.gaps.quantile(0.95)),
        num_tokens_24h=past.day.num_tokens,
        num_recoveries_24h=past.day.num_recoveries,
        energy_j_per_token=token_joules(past, hosts),
        servable_minutes=list(past.servable),
    )


def _node(node: NodeView, figures: Figures, shown: Collection[str] | None) -> NodeHealth:
    return NodeHealth(
        node_id=redacted(node.node_id),
        name=redacted(node.name),
        software=redacted(node.software),
        device=redacted(node.device),
        memory_bytes=node.memory_bytes,
        state=redacted(node.state),
        operator=redacted(node.operator),
        num_sessions=node.num_sessions,
        tokens_per_s=round(figures.node_rates.get(node.node_id, 0.0), 3),
        uptime_s=node.uptime_s if isfinite(node.uptime_s) else None,  # JSON has no infinity
        spans=[
            SpanHealth(
                model_id=redacted(span.model_id),
                start=span.span.start,
                end=span.span.end,
                dtype=redacted(span.dtype),
                state=redacted(span.state),
                verified=span.verified,
                failure=shortened(redacted(span.failure), MAX_FAILURE),
            )
            for span in node.spans[:MAX_SPANS]
            if shown is None or span.model_id in shown
        ],
        present_minutes=list(figures.past.nodes.get(node.node_id, NO_DAY)),
    )
