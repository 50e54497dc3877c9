"""A large swarm as its health page sees it, drawn from a seed: nodes, models, and a day of history."""

from collections.abc import AsyncGenerator
from random import Random

from osai.coordinator.api import (
    Embedding,
    EmbeddingRequest,
    GenerationEvent,
    GenerationRequest,
    ModelView,
    NodeView,
    SpanView,
    SwarmView,
)
from osai.coordinator.health.figures import Figures
from osai.coordinator.history.minute import Flow
from osai.coordinator.history.past import CELL_MINUTES, DAY_CELLS, DAY_MINUTES, Contributor, Day, ModelPast, Past
from osai.core.errors import UnavailableError
from osai.core.layers import LayerRange

NOW_S = 1_800_000_000.0
NOW = int(NOW_S // 60)
DEVICES = (
    ("NVIDIA GeForce RTX 4090", 24), ("NVIDIA GeForce RTX 3090", 24), ("NVIDIA L4", 24), ("CPU x86_64, 16 cores", 64),
    ("NVIDIA A100-SXM4-80GB", 80), ("NVIDIA H100 80GB HBM3", 80),
)  # fmt: skip
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "iris", "juniper", "kestrel", "linden")
LICENCES = ("Apache-2.0", "MIT", "Llama 3.3 Community License", "Gemma Terms of Use")
SIZES = ((32, "8B"), (48, "32B"), (80, "70B"), (61, "671B"))
_WHOLE_DAY: Day = (CELL_MINUTES,) * DAY_CELLS


class StillGenerations:
    """A coordinator whose swarm does not change, and which generates nothing."""

    def __init__(self, view: SwarmView) -> None:
        self._view = view

    def swarm(self) -> SwarmView:
        """Always the same."""
        return self._view

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Refuse it."""
        raise UnavailableError(f"nothing is generated here, of {request.model_id} either")
        yield  # so that it is a generator

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """Refuse it."""
        raise UnavailableError(f"nothing is embedded here, by {request.model_id} either")


def draw_view(num_nodes: int, num_models: int, random: Random) -> SwarmView:
    """A swarm; the first model has layers without a node, the second thin ones, the others are well."""
    shapes = [SIZES[i % len(SIZES)] for i in range(num_models)]
    names = [f"example/{WORDS[i % len(WORDS)]}-{i}-{shapes[i][1]}" for i in range(num_models)]
    nodes = []
    for i in range(num_nodes):
        which = i % num_models
        num_layers = shapes[which][0]
        width = max(1, num_layers // 4)
        start = min(i // num_models % 4 * width, num_layers - width)
        if which == 0 and start == width:
            start = 0  # so that nobody has these
        nodes.append(_node(i, names[which], LayerRange(start, _end(start, width, num_layers)), random))
    models = tuple(
        ModelView(
            model_id=name,
            num_layers=layers,
            max_context=32_768,
            signed=True,
            licence=LICENCES[i % len(LICENCES)],
            replicas=_replicas(nodes, name, layers),
            created_s=1_700_000_000,
        )
        for i, (name, (layers, _)) in enumerate(zip(names, shapes, strict=True))
    )
    return SwarmView(
        coordinator_id="c0ffee" * 5 + "00",
        software="osai/0.1.0",
        http_address="http://swarm.example:8080",
        dht_addresses=(),
        models=models,
        nodes=tuple(nodes),
        coordinators=("swarm.example:7070",),
    )


def draw_figures(view: SwarmView, random: Random) -> Figures:
    """A day of history of that swarm."""
    return Figures(
        past=Past(
            since=NOW - 2 * DAY_MINUTES,
            recorded=_WHOLE_DAY,
            nodes={node.node_id: _day(random) for node in view.nodes},
            models={model.model_id: _model_past(random, well=model.covered) for model in view.models},
            contributors=tuple(
                Contributor(
                    name=name, num_nodes=1 + i % 5, tokens_day=9_000_000 // (i + 1), tokens_month=10**9 // (i + 1)
                )
                for i, name in enumerate([*(f"{word} labs" for word in WORDS), "", "one more"])
            ),
        ),
        model_rates={model.model_id: random.uniform(20, 90) for model in view.models if model.covered},
        node_rates={node.node_id: random.uniform(0, 40) for node in view.nodes},
        now=NOW,
    )


def _node(i: int, model_id: str, layers: LayerRange, random: Random) -> NodeView:
    device, memory_gb = DEVICES[i % len(DEVICES)]
    state = "loading" if random.random() < 0.01 else "ready"
    span = SpanView(model_id=model_id, span=layers, dtype="bfloat16", state=state, verified=state == "ready")
    return NodeView(
        node_id=f"{random.getrandbits(128):032x}",
        name=f"{WORDS[random.randrange(len(WORDS))]}-{i}",
        software="osai/0.1.0",
        device=device,
        memory_bytes=memory_gb * 10**9,
        state="joining" if state == "loading" else "ready",
        spans=(span,),
        num_sessions=random.randrange(12),
        uptime_s=random.uniform(60, 2e6),
    )


def _end(start: int, width: int, num_layers: int) -> int:
    return num_layers if start + 2 * width > num_layers else start + width


def _replicas(nodes: list[NodeView], model_id: str, num_layers: int) -> tuple[int, ...]:
    counts = [0] * num_layers
    for node in nodes:
        for span in node.spans:
            if span.model_id == model_id and span.state == "ready":
                for layer in range(span.span.start, span.span.end):
                    counts[layer] += 1
    return tuple(counts)


def _day(random: Random) -> Day:
    first = random.choice((0, 0, 0, 0, random.randrange(DAY_CELLS)))
    gap = random.randrange(4 * DAY_CELLS)
    return tuple(
        0 if cell < first or cell == gap else CELL_MINUTES // 2 if cell in {gap - 1, gap + 1} else CELL_MINUTES
        for cell in range(DAY_CELLS)
    )


def _model_past(random: Random, *, well: bool) -> ModelPast:
    flow = Flow(num_tokens=random.randrange(10**5, 10**7), num_recoveries=random.randrange(9))
    for _ in range(50):
        flow.ttft.add(random.lognormvariate(-1, 0.5))
        flow.gaps.add(random.lognormvariate(-3.2, 0.3), 100)
    servable = _WHOLE_DAY if well else (*_WHOLE_DAY[:-3], CELL_MINUTES // 3, 0, 0)
    return ModelPast(servable=servable, hour=flow, day=Flow(num_recoveries=3).plus(flow))
