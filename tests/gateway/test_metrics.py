"""What /metrics shows."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from gateway.fake_generations import (
    MODEL,
    FakeGenerations,
    Step,
    chunk,
    example_model,
    example_node,
    example_swarm,
    finished,
    scripted,
    started,
    token,
)
from gateway.front_door import serving
from osai.coordinator.api import GenerationEvent, GenerationRequest
from osai.coordinator.gateway.metering import MeteredGenerations
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.tracing.phases import Phase, enter
from osai.core.errors import NotCoveredError

LABELS = {"api": "grpc", "model": MODEL}


class Ticks:
    """A clock that goes on by a second at each look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


async def metered(*steps: Step, take: int | None = None) -> CollectorRegistry:
    """The registry after one generation, of which `take` events are taken."""
    registry = CollectorRegistry()
    generations = MeteredGenerations(scripted(*steps), metrics=Metrics(registry), api="grpc", clock=Ticks())
    events = generations.generate(GenerationRequest(model_id="asked", prompt="x"))
    try:
        async for _ in events:
            assert registry.get_sample_value("osai_sessions_running", {"api": "grpc"}) == 1
            take = None if take is None else take - 1
            if take == 0:
                break
    except NotCoveredError:
        pass
    finally:
        await events.aclose()
    assert registry.get_sample_value("osai_sessions_running", {"api": "grpc"}) == 0
    return registry


async def test_tokens_and_times_are_measured() -> None:
    two = (token("b"), token("c"))
    registry = await metered(started(), chunk(0, "a"), chunk(1, "bc", *two), chunk(3, "d"), finished("stop", 4))
    value = registry.get_sample_value
    assert value("osai_prompt_tokens_total", LABELS) == 4
    assert value("osai_generation_tokens_total", LABELS) == 4
    assert value("osai_time_to_first_token_seconds_sum", LABELS) == 1.0
    assert value("osai_time_to_first_token_seconds_count", LABELS) == 1
    assert value("osai_inter_token_latency_seconds_count", LABELS) == 3
    assert value("osai_inter_token_latency_seconds_sum", LABELS) == 2.0  # two that shared a second, and one more
    assert value("osai_time_per_output_token_seconds_sum", LABELS) == pytest.approx(2 / 3)
    assert value("osai_request_queue_time_seconds_count", LABELS) is None  # it had its place already
    assert value("osai_e2e_request_latency_seconds_sum", LABELS) == 4.0
    assert value("osai_generations_total", LABELS | {"outcome": "stop"}) == 1


async def test_waiting_for_kv_is_told_from_the_rest() -> None:
    class Queueing(FakeGenerations):
        async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
            for phase in (Phase.QUEUEING, Phase.ROUTING, Phase.QUEUEING, Phase.ROUTING, Phase.OPENING):
                enter(phase)  # refused once: there was no room after all
            async with aclosing(super().generate(request)) as events:
                async for event in events:
                    yield event

    registry = CollectorRegistry()
    metrics = Metrics(registry)
    generations = MeteredGenerations(Queueing(), metrics=metrics, api="grpc", clock=Ticks())
    value = registry.get_sample_value
    async with aclosing(generations.generate(GenerationRequest(model_id="asked", prompt="x"))) as events:
        running = [value("osai_num_requests_running", LABELS) async for _ in events]
    assert set(running) == {1}
    assert value("osai_num_requests_running", LABELS) == 0
    assert (value("osai_request_queue_time_seconds_sum", LABELS), metrics.num_recoveries()) == (2.0, 0)
    assert value("osai_prefix_cache_hit_tokens_total", LABELS) == 3


@pytest.mark.parametrize(
    ("steps", "take", "labels"),
    [
        ((started(), chunk(0, "a"), finished()), 2, LABELS | {"outcome": "cancelled"}),
        ((started(), chunk(0, "a"), finished()), 3, LABELS | {"outcome": "length"}),
        ((started(), NotCoveredError("gone")), None, LABELS | {"outcome": "not_covered"}),
        ((NotCoveredError("none"),), None, LABELS | {"model": "none", "outcome": "not_covered"}),
        ((started(),), None, LABELS | {"outcome": "internal"}),
    ],
)
async def test_each_outcome_has_its_label(steps: tuple[Step, ...], take: int | None, labels: dict[str, str]) -> None:
    registry = await metered(*steps, take=take)
    assert registry.get_sample_value("osai_generations_total", labels) == 1


async def test_the_endpoint_shows_requests_generations_and_the_swarm() -> None:
    span = example_node().spans
    view = example_swarm(
        models=(example_model(), example_model("gappy", replicas=(0, 1, 0, 2, 2, 2))),
        nodes=(example_node(0), example_node(1, state="joining", spans=span), example_node(2)),
    )
    async with serving(FakeGenerations(view=view)) as url, httpx.AsyncClient(base_url=url) as client:
        await client.post("/v1/completions", json={"model": MODEL, "prompt": "x"})
        await client.post("/v1/completions", json={"model": MODEL, "prompt": 1})
        for method, path in (("GET", "/one"), ("GET", "/two"), ("BREW", "/healthz"), ("BREW", "/three")):
            await client.request(method, path)
        response = await client.get("/metrics")
    samples = [sample for family in text_string_to_metric_families(response.text) for sample in family.samples]

    def shown(name: str, **labels: str) -> float | None:
        return next((sample.value for sample in samples if (sample.name, sample.labels) == (name, labels)), None)

    assert response.headers["content-type"].startswith("text/plain")
    assert shown("osai_http_requests_total", method="POST", route="/v1/completions", status="200") == 1
    assert shown("osai_http_requests_total", method="POST", route="/v1/completions", status="400") == 1
    assert shown("osai_http_requests_total", method="GET", route="unmatched", status="404") == 2
    assert shown("osai_http_requests_total", method="other", route="/healthz", status="405") == 1
    assert shown("osai_http_requests_total", method="other", route="unmatched", status="404") == 1
    assert shown("osai_generations_total", api="http", model=MODEL, outcome="length") == 1
    assert [shown("osai_nodes", state=state) for state in ("ready", "joining", "draining")] == [2, 1, 0]
    assert [shown("osai_model_layers_covered", model=model) for model in (MODEL, "gappy")] == [6, 4]
    assert [shown("osai_model_layers", model=model) for model in (MODEL, "gappy")] == [6, 6]
    assert [shown("osai_num_requests_waiting", model=model) for model in (MODEL, "gappy")] == [0, 0]
    assert [shown("osai_model_replicas_least", model=model) for model in (MODEL, "gappy")] == [1, 0]
    assert not any(sample.name.startswith("python_") for sample in samples)  # the registry is the one passed in
