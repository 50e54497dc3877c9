"""What the engine's meter makes of steps, and what becomes of it: metrics, a scrape, spans."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from engine.harness import KV_BUDGET_BYTES, PROMPT, WHOLE, load
from families.fixtures import Checkpoints
from osai.core.errors import InternalError, SetupError
from osai.core.sampling import SamplingParams
from osai.core.tracing.span import SpanData, session_root
from osai.node.engine.api import Input, Rows, SessionSpec, StepOutput
from osai.node.engine_meter import MAX_SESSIONS, EngineMeter, Opened, PrefillSeen, Seen, StepSeen
from osai.node.metered_engine import MeteredEngine
from osai.node.metrics import NodeCollector, NodeMetrics
from osai.node.metrics_server import is_loopback, parse_metrics_address, serving_metrics
from osai.node.stage_traces import StageTraces

KEY = "org/model"


def spec(session: int = 1, num_prompt: int = 8, key: str = KEY) -> SessionSpec:
    return SessionSpec(session=session, span=key, num_prompt_tokens=num_prompt, max_total_tokens=40)


def part(position: int, count: int = 1, session: int = 1, epoch: int = 1) -> Rows:
    return Rows(session=session, epoch=epoch, position=position, count=count)


def step(*rows: Rows, took_s: float = 1.0, failed: tuple[Rows, ...] = ()) -> StepOutput:
    errors = tuple((each, InternalError("odd")) for each in failed)
    return StepOutput(span=KEY, rows=rows, hidden=None, failed=errors, step_time_s=took_s)


def metered(num_cached: int = 0) -> tuple[EngineMeter, list[Seen]]:
    seen: list[Seen] = []
    meter = EngineMeter([seen.append])
    meter.opened(spec(), num_cached)
    return meter, seen


def test_a_prompts_time_is_split_into_queue_and_compute() -> None:
    meter, seen = metered(num_cached=2)
    meter.submitted(part(2, 3), 10.0)
    meter.stepped(step(part(2, 3), took_s=1.0), 12.0)  # waited from 10 to 11
    meter.submitted(part(5, 3), 14.0)  # the stage before took until then
    meter.stepped(step(part(5, 2), took_s=0.5), 15.0)  # waited from 14 to 14.5
    meter.stepped(step(part(7, 1), took_s=0.5), 16.0)  # and from 15 to 15.5
    meter.submitted(part(8), 17.0)
    meter.stepped(step(part(8)), 18.5)
    (prefill,) = [one for one in seen if isinstance(one, PrefillSeen)]
    assert (prefill.begun_s, prefill.ended_s) == (10.0, 16.0)
    assert (prefill.queue_s, prefill.compute_s) == (1.0 + 0.5 + 0.5, 2.0)
    assert (prefill.num_rows, prefill.num_cached_tokens, prefill.key) == (6, 2, KEY)
    steps = [one for one in seen if isinstance(one, StepSeen)]
    assert [one.waits_s for one in steps] == [(1.0,), (0.5,), (1.5,), (0.5,)]
    assert [(one.num_rows, one.num_prompt_rows) for one in steps] == [(3, 3), (2, 2), (1, 1), (1, 0)]
    assert meter.num_tokens == 7


def test_a_head_that_is_the_tail_too_adds_rows_before_the_step_is_told() -> None:
    meter, seen = metered()
    meter.submitted(part(0, 8), 1.0)
    meter.submitted(part(8), 3.0)  # out of the step that ends now
    meter.stepped(step(part(0, 8)), 3.0)
    meter.stepped(step(part(8)), 4.5)
    assert [one.waits_s for one in seen if isinstance(one, StepSeen)] == [(1.0,), (0.5,)]


def test_sessions_that_ended_failed_or_lost_their_span_are_forgotten() -> None:
    meter, seen = metered()
    for number in (2, 3):
        meter.opened(spec(number), 0)
    meter.opened(spec(4, key="other"), 0)
    assert (meter.num_sessions(KEY), meter.num_sessions("other")) == (3, 1)
    meter.released(1)
    meter.stepped(step(part(0, session=3), failed=(part(0, session=2),)), 1.0)
    assert meter.num_sessions(KEY) == 1
    meter.removed(KEY)
    meter.released(99)
    assert (meter.num_sessions(KEY), meter.num_sessions("other")) == (0, 1)
    meter.submitted(part(0, session=99), 1.0)
    meter.stepped(step(part(0, session=99)), 2.0)
    assert isinstance(seen[-1], StepSeen)
    assert seen[-1].waits_s == ()


def test_sessions_that_nobody_ends_take_no_memory_for_ever() -> None:
    meter = EngineMeter()
    for number in range(MAX_SESSIONS + 10):
        meter.opened(spec(number), 0)
    assert meter.num_sessions(KEY) == MAX_SESSIONS


@given(
    chunks=st.lists(
        st.tuples(st.integers(1, 5), st.floats(0, 3), st.floats(0, 3), st.floats(0, 2)), min_size=1, max_size=9
    )
)
def test_queue_and_compute_never_make_more_than_the_whole(chunks: list[tuple[int, float, float, float]]) -> None:
    seen: list[Seen] = []
    meter, now_s, position = EngineMeter([seen.append]), 100.0, 0
    meter.opened(spec(num_prompt=sum(count for count, *_ in chunks)), 0)
    for count, idle_s, wait_s, took_s in chunks:
        now_s += idle_s
        meter.submitted(part(position, count), now_s)
        now_s += wait_s + took_s
        meter.stepped(step(part(position, count), took_s=took_s), now_s)
        position += count
    (prefill,) = [one for one in seen if isinstance(one, PrefillSeen)]
    assert prefill.queue_s >= 0
    assert prefill.queue_s + prefill.compute_s <= prefill.ended_s - prefill.begun_s + 1e-6
    assert prefill.compute_s == pytest.approx(sum(took_s for *_, took_s in chunks))
    assert prefill.num_rows == position


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"osai_node_{name}", labels or {"model": KEY})


def test_what_is_seen_is_counted() -> None:
    metrics = NodeMetrics(CollectorRegistry())
    metrics.seen(Opened(key=KEY, num_prompt_tokens=10, num_cached_tokens=4))
    metrics.seen(StepSeen(key=KEY, num_rows=7, num_prompt_rows=5, step_s=0.5, waits_s=(0.25, 0.5)))
    metrics.carried("dialled", "sent", 100)
    metrics.carried("dialled", "sent", 23)
    registry = metrics.registry
    assert (value(registry, "prefix_cache_queries_total"), value(registry, "prefix_cache_hits_total")) == (10, 4)
    assert (value(registry, "prompt_tokens_total"), value(registry, "generation_tokens_total")) == (5, 2)
    assert (value(registry, "queue_time_seconds_sum"), value(registry, "queue_time_seconds_count")) == (0.75, 2)
    assert (value(registry, "batch_size_rows_sum"), value(registry, "batch_size_sessions_sum")) == (7, 2)
    assert value(registry, "link_bytes_total", link="dialled", direction="sent") == 123


@dataclass
class Kept:
    spans: list[SpanData] = field(default_factory=list)

    def add(self, span: SpanData) -> None:
        self.spans.append(span)


def test_a_prompt_becomes_a_span_below_its_sessions() -> None:
    kept = Kept()
    meter = EngineMeter([StageTraces(kept, "node1", lambda _: "0:6", lambda: 20.0, lambda: 1_000_020.0).seen])
    meter.opened(spec(session=7), 3)
    meter.submitted(part(3, 5, session=7, epoch=2), 10.0)
    meter.stepped(step(part(3, 5, session=7, epoch=2), took_s=1.5), 12.0)
    (span,) = kept.spans
    assert (span.name, span.parent, span.ref.trace_id) == ("stage prefill", session_root(7), session_root(7).trace_id)
    assert (span.begun_s, span.ended_s) == (1_000_010.0, 1_000_012.0)
    assert span.attributes == {
        "osai.session": f"{7:016x}", "osai.node": "node1", "osai.model": KEY, "osai.layers": "0:6", "osai.epoch": 2,
        "osai.num_rows": 5, "osai.num_cached_tokens": 3, "osai.queue_s": 0.5, "osai.compute_s": 1.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "address"),
    [("9090", ("127.0.0.1", 9090)), (":9", ("127.0.0.1", 9)), ("[::1]:9", ("::1", 9)), ("0.0.0.0:9", ("0.0.0.0", 9))],
)
def test_a_port_alone_is_on_loopback(text: str, address: tuple[str, int]) -> None:
    assert parse_metrics_address(text) == address
    assert is_loopback(address[0]) == (address[0] != "0.0.0.0")


@pytest.mark.parametrize("text", ["here", "host:", "host:99999", "host:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="--metrics"):
        parse_metrics_address(text)


@asynccontextmanager
async def hosting(checkpoints: Checkpoints, metrics: NodeMetrics) -> AsyncIterator[tuple[MeteredEngine, EngineMeter]]:
    """A real engine of one small span, and its meter."""
    meter = EngineMeter([metrics.seen])
    arrived: asyncio.Queue[StepOutput] = asyncio.Queue()
    failures: list[Exception] = []
    engine = MeteredEngine(asyncio.get_running_loop(), arrived.put_nowait, failures.append, meter=meter)
    engine.start()
    try:
        await engine.add_span(KEY, load(checkpoints("llama"), WHOLE), KV_BUDGET_BYTES)
        await engine.open(
            SessionSpec(
                session=1, span=KEY, num_prompt_tokens=len(PROMPT), max_total_tokens=1000, sampling=SamplingParams()
            )
        )
        engine.submit(Input(rows=part(0, len(PROMPT)), data=torch.tensor(PROMPT)))
        async with asyncio.timeout(30):
            await arrived.get()
        yield engine, meter
    finally:
        await engine.stop()
    assert not failures


async def test_a_scrape_shows_the_engine_as_it_is(checkpoints: Checkpoints) -> None:
    metrics = NodeMetrics(CollectorRegistry())
    async with hosting(checkpoints, metrics) as (engine, meter):
        registry = metrics.registry
        registry.register(NodeCollector(meter, engine, lambda: 3, lambda: 4096))
        async with serving_metrics(registry, "127.0.0.1:0") as url, aiohttp.ClientSession() as session:
            async with session.get(url) as response:
                text = await response.text()
                assert response.headers["Content-Type"].startswith("text/plain")
            with pytest.raises(SetupError, match="choose another port"):
                await serving_metrics(registry, url.split("/")[2]).__aenter__()
        assert f'osai_node_num_requests_running{{model="{KEY}"}} 1.0' in text
        assert "osai_node_peers 3.0" in text
        assert value(registry, "span_layers") == 6
        assert value(registry, "prompt_tokens_total") == len(PROMPT)
        tokens = value(registry, "kv_cache_tokens")
        assert tokens is not None
        assert value(registry, "kv_cache_usage_ratio") == pytest.approx(1 - engine.num_free_kv_tokens(KEY) / tokens)
        assert (value(registry, "kv_cache_usage_ratio") or 0) >= 1000 / tokens
        engine.release(1)
        assert (value(registry, "num_requests_running"), meter.num_tokens) == (0, len(PROMPT))
        await engine.remove_span(KEY)
        assert value(registry, "span_layers") is None
