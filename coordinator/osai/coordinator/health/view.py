"""What the health page shows, made from the swarm's view. Pure."""

import json
import shlex
from dataclasses import dataclass

from osai.coordinator.api import ModelView, NodeView, SpanView, SwarmView
from osai.coordinator.health.strip import Strip, strip_of
from osai.coordinator.health.wording import (
    MAX_FAILURE,
    MAX_VERSION,
    MAX_WORD,
    duration,
    listed,
    memory_size,
    replicas_in_words,
    shortened,
)
from osai.core.privacy import privacy_line

OPERATOR_DIGITS = 16  # of an operator's key that are shown: to tell operators apart, not to decide on trust
MAX_SPANS = 4  # of a node that are named, the others counted
_TROUBLE_FIRST = {"draining": 0, "joining": 1, "ready": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model."""

    name: str
    servable: bool
    signed: bool
    licence: str
    num_layers: int
    max_context: int
    strip: Strip
    missing: str
    lacking: str
    single: str
    runs: str


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
    uptime: str
    software: str
    operator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PageView:
    """The page but for its models and nodes."""

    coordinator: str
    software: str
    num_servable: int
    num_models: int
    servable_mark: str
    num_ready: int
    num_nodes: int
    num_sessions: int
    join: str
    base_url: str
    curl: str
    example_model: str
    is_private: bool
    privacy: str


def page_view(view: SwarmView, *, own_url: str) -> PageView:
    """The page of a swarm; `own_url` is where the reader found it, for when the view has no address."""
    address = view.http_address or own_url
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    num_servable = sum(model.covered for model in view.models)
    example = next((model.model_id for model in view.models if model.covered), "MODEL")
    return PageView(
        coordinator=view.coordinator_id[:8],
        software=shortened(view.software),
        num_servable=num_servable,
        num_models=len(view.models),
        servable_mark="good" if num_servable == len(view.models) > 0 else "warn" if num_servable else "bad",
        num_ready=sum(node.state == "ready" for node in view.nodes),
        num_nodes=len(view.nodes),
        num_sessions=sum(node.num_sessions for node in view.nodes),
        join=f"osai-node join {shlex.quote(view.dht_addresses[0])}" if view.dht_addresses else "",
        base_url=f"{url}/v1",
        curl=_curl(url, example),
        example_model=example,
        is_private=view.private,
        privacy=privacy_line(is_private=view.private),
    )


def rank(node: NodeView) -> tuple[bool, int, str, int, str]:
    """Sorts nodes: those in trouble first, then along the models' layers."""
    well = all(span.state == "ready" and span.verified for span in node.spans)
    first = min(((span.model_id, span.span.start) for span in node.spans), default=("", 0))
    return (well, _TROUBLE_FIRST.get(node.state, 0), *first, node.name)


def model_card(model: ModelView) -> ModelCard:
    """What is shown of a model."""
    strip = strip_of(model.replicas)
    return ModelCard(
        name=shortened(model.model_id),
        servable=model.covered,
        signed=model.signed,
        licence=shortened(model.licence) or "no licence stated",
        num_layers=model.num_layers,
        max_context=model.max_context,
        strip=strip,
        missing=listed(strip.missing),
        lacking=shortened(model.missing),
        single=listed(strip.single),
        runs=listed([replicas_in_words(run) for run in strip.runs]),
    )


def node_row(node: NodeView) -> NodeRow:
    """What is shown of a node."""
    return NodeRow(
        name=shortened(node.name) or "unnamed",
        short_id=node.node_id[:8],
        spans=tuple(_line(span) for span in node.spans[:MAX_SPANS]),
        num_more_spans=max(0, len(node.spans) - MAX_SPANS),
        device=shortened(node.device),
        memory=memory_size(node.memory_bytes),
        state=shortened(node.state, MAX_WORD),
        num_sessions=node.num_sessions,
        uptime=duration(node.uptime_s),
        software=shortened(node.software, MAX_VERSION),
        operator=node.operator[:OPERATOR_DIGITS],
    )


def _line(span: SpanView) -> SpanLine:
    return SpanLine(
        model=shortened(span.model_id),
        layers=str(span.span),
        dtype=shortened(span.dtype, MAX_WORD),
        state=shortened(span.state, MAX_WORD),
        verified=span.verified,
        failure=shortened(span.failure, MAX_FAILURE),
    )


def _curl(url: str, model: str) -> str:
    body = json.dumps({"model": model, "prompt": "Once upon a time", "max_tokens": 64, "stream": True})
    return (
        f"curl -N {shlex.quote(f'{url}/v1/completions')} \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(body)}"
    )
