"""What the front doors measure, and the swarm's state, in Prometheus' form. Names follow vLLM's where it has one."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from osai.coordinator.api import SwarmView

NODE_STATES = ("joining", "ready", "draining")
# Seconds: from a small model on one machine to a queue of long prompts over continents.
_TTFT_BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80, 160)
_TOKEN_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10)
_PAUSE_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 40, 80)
_TOTAL_BUCKETS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640)


class Metrics:
    """The instruments, in a registry that the caller owns. `api` is the front door: "http" or "grpc"."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        by_model = ("api", "model")
        self.http_requests = Counter(
            "osai_http_requests", "HTTP responses, by route.", ("method", "route", "status"), registry=registry
        )
        self.generations = Counter(
            "osai_generations",
            "Generations that ended: stop, length, cancelled, or the error's code.",
            (*by_model, "outcome"),
            registry=registry,
        )
        self.running = Gauge(
            "osai_sessions_running", "Generations under way, those that wait to start included.", ("api",),
            registry=registry,
        )  # fmt: skip
        self.requests_running = Gauge(
            "osai_num_requests_running", "Generations whose session is open.", by_model, registry=registry
        )
        self.queue_s = Histogram(
            "osai_request_queue_time_seconds", "That a request waited for KV to come free.", by_model,
            buckets=_TTFT_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter("osai_prompt_tokens", "Prompt tokens taken in.", by_model, registry=registry)
        self.cached_tokens = Counter(
            "osai_prefix_cache_hit_tokens", "Prompt tokens whose KV all stages had already.", by_model,
            registry=registry,
        )  # fmt: skip
        self.generation_tokens = Counter("osai_generation_tokens", "Tokens given out.", by_model, registry=registry)
        self.ttft_s = Histogram(
            "osai_time_to_first_token_seconds", "From the request to its first token.", by_model,
            buckets=_TTFT_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.inter_token_s = Histogram(
            "osai_inter_token_latency_seconds", "Between one token and the next.", by_model,
            buckets=_TOKEN_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.token_s = Histogram(
            "osai_time_per_output_token_seconds", "Mean of a whole generation, after its first token.", by_model,
            buckets=_TOKEN_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.recoveries = Counter(
            "osai_recoveries", "Times that a generation went on over another pipeline.", by_model, registry=registry
        )
        self.pause_s = Histogram(
            "osai_recovery_pause_seconds", "From the loss of a stage until another pipeline was set up.", by_model,
            buckets=_PAUSE_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.total_s = Histogram(
            "osai_e2e_request_latency_seconds", "From the request to its end.", by_model,
            buckets=_TOTAL_BUCKETS_S, registry=registry,
        )  # fmt: skip

    def num_recoveries(self) -> int:
        """Recoveries of all models through all front doors, since this coordinator started."""
        samples = (sample for family in self.recoveries.collect() for sample in family.samples)
        return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))


class SwarmCollector(Collector):
    """The swarm's state, read at each scrape."""

    def __init__(self, swarm: Callable[[], SwarmView]) -> None:
        self._swarm = swarm

    def collect(self) -> Iterator[Metric]:
        """Nodes by state, and each model's coverage."""
        view = self._swarm()
        nodes = GaugeMetricFamily("osai_nodes", "Nodes of the swarm, by state.", labels=("state",))
        for state in NODE_STATES:
            nodes.add_metric((state,), sum(node.state == state for node in view.nodes))
        yield nodes
        layers = GaugeMetricFamily("osai_model_layers", "Decoder layers of the model.", labels=("model",))
        covered = GaugeMetricFamily(
            "osai_model_layers_covered", "Layers that at least one ready node hosts.", labels=("model",)
        )
        least = GaugeMetricFamily(
            "osai_model_replicas_least", "Ready nodes of the layer that has the fewest.", labels=("model",)
        )
        queued = GaugeMetricFamily(
            "osai_num_requests_waiting", "Requests that wait for KV to come free.", labels=("model",)
        )
        for model in view.models:
            layers.add_metric((model.model_id,), model.num_layers)
            covered.add_metric((model.model_id,), sum(replicas > 0 for replicas in model.replicas))
            least.add_metric((model.model_id,), min(model.replicas, default=0))
            queued.add_metric((model.model_id,), model.num_queued)
        yield from (layers, covered, least, queued)
