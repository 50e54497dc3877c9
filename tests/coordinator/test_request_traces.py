"""A request's spans, through both front doors."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.fake_generations import MODEL, FakeGenerations, chunk, finished, scripted, started
from osai.coordinator.api import GenerationEvent, GenerationRequest, Generations, Rerouted, Started
from osai.coordinator.client_service import ClientService
from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.gateway.server import HttpServer
from osai.coordinator.tracing.incoming import TraceParent
from osai.coordinator.tracing.phases import Phase, enter, observed, observing
from osai.coordinator.tracing.request_trace import MAX_PHASES, RequestTrace
from osai.coordinator.tracing.traced import TracedGenerations
from osai.core.errors import InvalidRequestError, NotCoveredError
from osai.core.rpc import bind, make_server
from osai.core.tracing.span import SpanData, SpanRef, session_root
from osai.proto import client_pb2, client_pb2_grpc

SESSION = 0xC0FFEE
OWN = SpanRef(trace_id=3, span_id=4)
CALLER = SpanRef(trace_id=0x0AF7651916CD43DD8448EB211C80319C, span_id=0xB7AD6B7169203331)
HEADER = f"00-{CALLER.trace_id:032x}-{CALLER.span_id:016x}-01"
BEGUN = replace(started(), session_id=f"{SESSION:016x}")
REQUEST = GenerationRequest(model_id=MODEL, prompt="x")


@dataclass
class Kept:
    """A tracer that keeps what it is given."""

    spans: list[SpanData] = field(default_factory=list)

    def add(self, span: SpanData) -> None:
        self.spans.append(span)

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]


class Phased(FakeGenerations):
    """Goes through phases as the coordinator does, and then follows its script."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        for phase in (Phase.QUEUEING, Phase.ROUTING, Phase.OPENING):
            enter(phase)
            await asyncio.sleep(0)
        async with aclosing(super().generate(request)) as events:
            async for event in events:
                yield event


class Ticks:
    """A clock that goes on by a second at each look."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def traced(inner: Generations) -> tuple[TracedGenerations, Kept]:
    kept = Kept()
    return TracedGenerations(inner, kept, Ticks(), lambda num_bits: num_bits), kept


def phased(*steps: Any) -> Phased:  # noqa: ANN401 - of a script
    return Phased(script=lambda _: steps)


async def run(generations: Generations, take: int | None = None) -> None:
    async with aclosing(generations.generate(REQUEST)) as events:
        async for _ in events:
            take = None if take is None else take - 1
            if take == 0:
                return


async def test_a_request_is_a_span_with_one_for_each_phase_and_recovery() -> None:
    lost = Rerouted(pipeline=(), reason="lost", pause_s=0.5)
    generations, kept = traced(phased(BEGUN, chunk(0, "a"), lost, chunk(1, "b"), finished("stop", 2)))
    await run(generations)
    whole, *phases = kept.spans
    assert [span.name for span in phases] == [
        "planning", "queueing", "routing", "opening", "prefill", "decode", "recovery", "decode",
    ]  # fmt: skip
    assert (whole.name, whole.kind, whole.ref, whole.parent) == ("generate", "server", session_root(SESSION), None)
    assert {span.parent for span in phases} == {whole.ref}
    assert len({span.ref for span in kept.spans}) == len(kept.spans)
    assert phases[0].begun_s == whole.begun_s
    assert all(one.ended_s == another.begun_s for one, another in itertools.pairwise(phases))
    assert phases[-1].ended_s == whole.ended_s
    assert phases[6].ended_s - phases[6].begun_s == 0.5
    assert whole.attributes == {
        "osai.model": MODEL, "osai.session": f"{SESSION:016x}", "osai.num_prompt_tokens": 4,
        "osai.num_cached_tokens": 3, "osai.num_stages": 3, "osai.finish_reason": "stop",
        "osai.num_generated_tokens": 2, "osai.num_recoveries": 0,
    }  # fmt: skip
    assert not whole.error


@pytest.mark.parametrize(
    ("steps", "take", "error", "last"),
    [
        ((NotCoveredError("gone"),), None, "NOT_COVERED", "opening"),
        ((BEGUN, InvalidRequestError("it quotes the prompt")), None, "INVALID_REQUEST", "prefill"),
        ((BEGUN, chunk(0, "a"), chunk(1, "b")), 2, "CANCELLED", "decode"),
        ((BEGUN, chunk(0, "a"), finished()), 3, "", "decode"),
        ((ValueError("of ours"),), None, "INTERNAL", "opening"),
    ],
)
async def test_how_it_ended_is_said_by_a_code_alone(
    steps: Sequence[Any], take: int | None, error: str, last: str
) -> None:
    generations, kept = traced(phased(*steps))
    try:
        await run(generations, take)
    except (NotCoveredError, InvalidRequestError, ValueError):
        assert error
    assert (kept.spans[0].error, kept.names[-1]) == (error, last)
    assert "quotes" not in repr(kept.spans)


async def test_what_never_had_a_session_has_a_trace_of_its_own() -> None:
    generations, kept = traced(scripted(NotCoveredError("none")))
    with pytest.raises(NotCoveredError):
        await run(generations)
    assert kept.spans[0].ref == SpanRef(trace_id=128, span_id=64)


@given(
    events=st.lists(
        st.sampled_from([*Phase, BEGUN, chunk(0, "a"), Rerouted(pipeline=(), reason="", pause_s=7.0), finished()]),
        max_size=40,
    ),
    gaps=st.lists(st.floats(0, 10), min_size=41, max_size=41),
    caller=st.none() | st.just(CALLER),
)
def test_phases_always_fill_the_request_without_gap_or_overlap(
    events: list[GenerationEvent | Phase], gaps: list[float], caller: SpanRef | None
) -> None:
    now_s = 1000.0
    trace = RequestTrace("generate", caller, OWN, now_s)
    for event, gap_s in zip(events, gaps, strict=False):
        now_s += gap_s
        if isinstance(event, Phase):
            trace.entered(event, now_s)
        else:
            trace.told(event, now_s)
    whole, *phases = trace.ended(now_s + gaps[-1])
    assert phases[0].begun_s == whole.begun_s
    assert phases[-1].ended_s == whole.ended_s
    assert all(one.ended_s == another.begun_s for one, another in itertools.pairwise(phases))
    assert all(span.begun_s <= span.ended_s for span in phases)
    has_session = any(isinstance(event, Started) for event in events)
    assert whole.ref.trace_id == (caller.trace_id if caller else session_root(SESSION).trace_id if has_session else 3)
    assert whole.links == ((session_root(SESSION),) if caller and has_session else ())


def test_a_request_that_is_rerouted_for_ever_makes_no_more_spans() -> None:
    trace = RequestTrace("generate", None, OWN, 0.0)
    for at in range(10 * MAX_PHASES):
        trace.entered((Phase.ROUTING, Phase.OPENING)[at % 2], float(at))
    assert len(trace.ended(1e6)) == MAX_PHASES + 1


async def test_requests_of_one_task_are_told_apart() -> None:
    seen: dict[str, list[Phase]] = {"one": [], "two": []}

    async def going() -> AsyncGenerator[int, None]:
        enter(Phase.QUEUEING)
        yield 1
        enter(Phase.ROUTING)

    one, two = (observed(going(), seen[name].append) for name in seen)
    await anext(one)
    await anext(two)
    enter(Phase.DECODE)  # the reader's own
    assert [event async for event in one] == []
    assert seen == {"one": [Phase.QUEUEING, Phase.ROUTING], "two": [Phase.QUEUEING]}
    await two.aclose()
    with observing(seen["two"].append):
        enter(Phase.PREFILL)
    assert seen["two"] == [Phase.QUEUEING, Phase.PREFILL]


def check_child(kept: Kept, operation: str = "generate") -> None:
    whole = kept.spans[0]
    assert (whole.name, whole.parent, whole.ref.trace_id) == (operation, CALLER, CALLER.trace_id)


@pytest.mark.parametrize(("header", "is_child"), [(HEADER, True), ("nonsense", False), (None, False)])
async def test_http_requests_are_their_callers_children(header: str | None, is_child: bool) -> None:
    generations, kept = traced(phased(BEGUN, chunk(0, "a"), finished()))
    app = create_app(generations, metrics=Metrics(CollectorRegistry()))
    app.add_middleware(TraceParent)
    headers = {"traceparent": header} if header else {}
    async with HttpServer(app, host="127.0.0.1", port=0) as server, httpx.AsyncClient(base_url=server.url) as client:
        body = {"model": MODEL, "prompt": "x"}
        (await client.post("/v1/completions", json={**body, "n": 2}, headers=headers)).raise_for_status()
        (await client.post("/v1/completions", json=body)).raise_for_status()  # over the same connection
    requests = [span for span in kept.spans if span.name == "generate"]
    assert [span.parent for span in requests] == [*[CALLER if is_child else None] * 2, None]
    if is_child:
        assert requests[0].links == (session_root(SESSION),)


async def test_grpc_calls_are_their_callers_children() -> None:
    generations, kept = traced(phased(BEGUN, chunk(0, "a"), finished()))
    server = make_server()
    service = ClientService("c1", generations, lambda: 7)
    client_pb2_grpc.add_CoordinatorServicer_to_server(service, server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1:0')}"
    await server.start()
    calls: list[Callable[[Any], Any]] = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub = client_pb2_grpc.CoordinatorStub(channel)
        calls.append(lambda metadata: stub.Generate(client_pb2.GenerateRequest(prompt="x"), metadata=metadata))
        async for _ in calls[0]((("traceparent", HEADER),)):
            pass
        async for _ in calls[0](()):
            pass
        await stub.Embed(client_pb2.EmbedRequest(prompt="x"), metadata=(("traceparent", HEADER),))
    await server.stop(None)
    assert [span.parent for span in kept.spans if span.kind == "server"] == [CALLER, None, CALLER]
    check_child(Kept([span for span in kept.spans if span.name == "embed"]), "embed")
