"""What one node process is watched by: the engine's meter, and as options metrics and traces."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from osai.core.tracing.exporting import open_tracer
from osai.node.config import NodeConfig
from osai.node.engine.engine import Engine
from osai.node.engine_meter import EngineMeter, Seen
from osai.node.metrics import NodeCollector, NodeMetrics
from osai.node.stage_traces import StageTraces
from osai.node.stages.pushing import Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Observing:
    """Of one node.

    Attributes:
        meter: of its engine.
        metrics: None where nobody wants them.
    """

    meter: EngineMeter
    metrics: NodeMetrics | None

    @property
    def on_traffic(self) -> Traffic | None:
        """For the ring."""
        return self.metrics.carried if self.metrics else None

    def collect(self, engine: Engine, num_peers: Callable[[], int], weight_bytes: Callable[[], int]) -> None:
        """Read the node's state too at each scrape."""
        if self.metrics is not None:
            self.metrics.registry.register(NodeCollector(self.meter, engine, num_peers, weight_bytes))


@asynccontextmanager
async def observing(config: NodeConfig, node_id: str, on_metrics: Callable[[str], None]) -> AsyncIterator[Observing]:
    """Watch a node inside the context.

    Args:
        config: says what is wanted.
        node_id: of this node.
        on_metrics: told the URL of the metrics.

    Raises:
        SetupError: if the metrics' address can't be bound, or traces are wanted and can't be had.
    """
    tell: list[Callable[[Seen], None]] = []
    meter = EngineMeter(tell)
    async with AsyncExitStack() as stack:
        metrics = None
        if config.metrics_listen:
            from osai.node.metrics_server import serving_metrics  # noqa: PLC0415 - aiohttp, for those who want it

            metrics = NodeMetrics(CollectorRegistry())
            tell.append(metrics.seen)
            on_metrics(await stack.enter_async_context(serving_metrics(metrics.registry, config.metrics_listen)))
        if config.traces:
            tracer = stack.enter_context(open_tracer(config.traces, "osai-node", node_id))

            def layers(key: str) -> str:
                return next((str(span.layers) for span in meter.spans if span.key == key), "")

            tell.append(StageTraces(tracer, node_id, layers, time.monotonic, time.time).seen)
        yield Observing(meter=meter, metrics=metrics)
