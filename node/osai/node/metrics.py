"""What a node measures, in Prometheus' form. docs/metrics.md has the whole list."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from osai.core.errors import UnknownModelError
from osai.node.engine.engine import Engine
from osai.node.engine_meter import EngineMeter, Opened, PrefillSeen, Seen, StepSeen

_STEP_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_WAIT_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_PREFILL_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
_ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class NodeMetrics:
    """The instruments, in a registry that the caller owns. `model` is the id of a model that this node hosts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._step_s = Histogram(
            "osai_node_step_time_seconds", "Of a step in the engine.", ("model",), buckets=_STEP_BUCKETS_S,
            registry=registry,
        )  # fmt: skip
        self._queue_s = Histogram(
            "osai_node_queue_time_seconds", "That a session's rows waited for their step.", ("model",),
            buckets=_WAIT_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._prefill_s = Histogram(
            "osai_node_prefill_time_seconds", "From a prompt's first rows until its last have left this stage.",
            ("model",), buckets=_PREFILL_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._batch_rows = Histogram(
            "osai_node_batch_size_rows", "Rows of a step, one a token.", ("model",), buckets=_ROW_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self._batch_sessions = Histogram(
            "osai_node_batch_size_sessions", "Sessions of a step.", ("model",), buckets=_ROW_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self._prompt_tokens = Counter(
            "osai_node_prompt_tokens", "Rows of prompts that were run.", ("model",), registry=registry
        )
        self._generation_tokens = Counter(
            "osai_node_generation_tokens", "Rows of generated tokens that were run.", ("model",), registry=registry
        )
        self._queries = Counter(
            "osai_node_prefix_cache_queries", "Prompt tokens of sessions that were opened.", ("model",),
            registry=registry,
        )  # fmt: skip
        self._hits = Counter(
            "osai_node_prefix_cache_hits", "Those whose KV was here already.", ("model",), registry=registry
        )
        self._bytes = Counter(
            "osai_node_link_bytes",
            "Of messages, before TLS: link dialled (this node pushes), accepted (it is pushed to), by direction.",
            ("link", "direction"), registry=registry,
        )  # fmt: skip

        self._waits: dict[str, Histogram] = {}

    def seen(self, seen: Seen) -> None:
        """The engine's meter has seen something."""
        match seen:
            case StepSeen():
                self._stepped(seen)
            case PrefillSeen():
                self._prefill_s.labels(seen.key).observe(seen.ended_s - seen.begun_s)
            case Opened():
                self._queries.labels(seen.key).inc(seen.num_prompt_tokens)
                self._hits.labels(seen.key).inc(seen.num_cached_tokens)

    def carried(self, link: str, direction: str, num_bytes: int) -> None:
        """A message went over a link: "dialled" or "accepted"; "sent" or "received"."""
        self._bytes.labels(link, direction).inc(num_bytes)

    def _stepped(self, step: StepSeen) -> None:
        waits = self._waits.get(step.key)
        if waits is None:  # looking a label up takes longer than counting
            waits = self._waits[step.key] = self._queue_s.labels(step.key)
        for wait_s in step.waits_s:
            waits.observe(wait_s)
        self._step_s.labels(step.key).observe(step.step_s)
        self._batch_rows.labels(step.key).observe(step.num_rows)
        self._batch_sessions.labels(step.key).observe(len(step.waits_s))
        self._prompt_tokens.labels(step.key).inc(step.num_prompt_rows)
        self._generation_tokens.labels(step.key).inc(step.num_rows - step.num_prompt_rows)


class NodeCollector(Collector):
    """The node's state, read at each scrape.

    Args:
        meter: of the engine.
        engine: is asked for its KV.
        num_peers: links that peers hold to this node now.
        weight_bytes: of weights that other nodes got from this one.
    """

    def __init__(
        self, meter: EngineMeter, engine: Engine, num_peers: Callable[[], int], weight_bytes: Callable[[], int]
    ) -> None:
        self._meter = meter
        self._engine = engine
        self._num_peers = num_peers
        self._weight_bytes = weight_bytes

    def collect(self) -> Iterator[Metric]:
        """What is hosted, how full it is, and who is connected."""
        running = _gauge("osai_node_num_requests_running", "Sessions open on this node.")
        waiting = _gauge("osai_node_waiting_rows", "Rows that wait for their step.")
        usage = _gauge("osai_node_kv_cache_usage_ratio", "Share of the span's KV that is not free, 0 to 1.")
        kv_tokens = _gauge("osai_node_kv_cache_tokens", "Tokens that the span's KV holds.")
        layers = _gauge("osai_node_span_layers", "Layers of the model that this node hosts.")
        for span in self._meter.spans:
            model = (span.key,)
            layers.add_metric(model, len(span.layers))
            kv_tokens.add_metric(model, span.num_kv_tokens)
            running.add_metric(model, self._meter.num_sessions(span.key))
            try:
                free = self._engine.num_free_kv_tokens(span.key)
                waiting.add_metric(model, self._engine.num_waiting_rows(span.key))
            except UnknownModelError:  # it is being removed
                continue
            usage.add_metric(model, 1.0 - min(free / max(span.num_kv_tokens, 1), 1.0))
        yield from (layers, kv_tokens, usage, running, waiting)
        peers = GaugeMetricFamily("osai_node_peers", "Links that nodes and coordinators hold to this node.")
        peers.add_metric((), self._num_peers())
        given = CounterMetricFamily("osai_node_weights_given_bytes", "Of weights that other nodes got from this one.")
        given.add_metric((), self._weight_bytes())
        yield from (peers, given)


def _gauge(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, labels=("model",))
