"""Spans: their ids, where they go, and that they cost nothing where nobody wants them."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from osai.core.errors import SetupError
from osai.core.tracing import exporting
from osai.core.tracing.exporting import OtelTracer, check_url, open_tracer
from osai.core.tracing.span import SpanData, SpanRef, read_trace_parent, session_root, stage_ref

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "client", "node", "coordinator")
NUMBERS = st.integers(0, 2**64 - 1)


@given(trace_id=st.integers(1, 2**128 - 1), span_id=st.integers(1, 2**64 - 1), flags=st.integers(0, 255))
def test_a_trace_parent_is_read_as_it_was_written(trace_id: int, span_id: int, flags: int) -> None:
    header = f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
    expected = SpanRef(trace_id=trace_id, span_id=span_id, sampled=bool(flags & 1))
    assert read_trace_parent(header) == read_trace_parent(f" {header} ") == expected
    assert read_trace_parent(f"01{header[2:]}-what-comes-later") == expected  # a newer version


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n00",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-" + "x" * 1000,
    ],
)
def test_a_malformed_trace_parent_is_none(header: str | None) -> None:
    assert read_trace_parent(header) is None


@given(text=st.text(max_size=300))
def test_no_header_breaks_anything(text: str) -> None:
    found = read_trace_parent(text)
    assert found is None or found.trace_id > 0


@given(first=NUMBERS, second=NUMBERS)
def test_a_session_number_alone_makes_its_trace(first: int, second: int) -> None:
    root = session_root(first)
    assert 0 < root.trace_id < 2**128
    assert 0 < root.span_id < 2**64
    assert (session_root(second) == root) == (first == second)
    assert f"{first:x}" not in f"{root.trace_id:032x}" or first < 2**32  # the number itself is not given away
    stages = {stage_ref(first, node, epoch) for node in ("a", "b") for epoch in (1, 2)}
    assert len({stage.span_id for stage in stages} | {root.span_id}) == 5
    assert {stage.trace_id for stage in stages} == {root.trace_id}


def example(error: str = "") -> SpanData:
    return SpanData(
        name="generate",
        ref=session_root(5),
        begun_s=1_700_000_000.25,
        ended_s=1_700_000_002.5,
        kind="server",
        attributes={"osai.num_prompt_tokens": 4, "osai.model": "m"},
        links=(session_root(6),),
        error=error,
    )


def test_spans_reach_an_exporter_with_ids_times_and_parents() -> None:
    exporter, whole = InMemorySpanExporter(), example("NOT_COVERED")
    with OtelTracer("osai-node", "node 1", exporter) as tracer:
        tracer.add(whole)
        tracer.add(whole.child("queueing", "0", 1_700_000_000.25, 1_700_000_001.0))
        tracer.add(SpanData(name="unsampled", ref=SpanRef(trace_id=1, span_id=2, sampled=False), begun_s=0, ended_s=1))
    request, queueing = exporter.get_finished_spans()
    assert request.context is not None
    assert queueing.context is not None
    assert (request.context.trace_id, request.context.span_id) == (whole.ref.trace_id, whole.ref.span_id)
    assert (request.parent, queueing.parent and queueing.parent.span_id) == (None, whole.ref.span_id)
    assert queueing.context.trace_id == whole.ref.trace_id
    assert (request.start_time, request.end_time) == (1_700_000_000_250_000_000, 1_700_000_002_500_000_000)
    assert request.status.status_code is StatusCode.ERROR
    assert [link.context.trace_id for link in request.links] == [session_root(6).trace_id]
    assert request.resource.attributes["service.name"] == "osai-node"
    assert dict(request.attributes or {}) == {"osai.num_prompt_tokens": 4, "osai.model": "m"}


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector."""

    def __init__(self) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []

    def Export(  # noqa: N802 - gRPC's
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    receiver, server = Receiver(), grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield receiver, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait(5)


def test_spans_reach_a_collector_by_otlp() -> None:
    with receiving() as (receiver, url):
        with open_tracer(url, "osai-coordinator", "c1") as tracer:
            tracer.add(example())
        (request,) = receiver.requests
    (resource,) = request.resource_spans
    (span,) = resource.scope_spans[0].spans
    assert int.from_bytes(span.trace_id, "big") == session_root(5).trace_id
    assert span.name == "generate"
    named = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert (named["service.name"], named["service.instance.id"]) == ("osai-coordinator", "c1")


def test_a_collector_that_does_not_answer_delays_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "SHUTDOWN_S", 0.3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        begun_s = time.monotonic()
        with open_tracer(f"http://127.0.0.1:{mute.getsockname()[1]}", "osai-node", "n") as tracer:
            for _ in range(5000):  # more than may wait
                tracer.add(example())
        assert time.monotonic() - begun_s < 5


@pytest.mark.parametrize(
    "url", ["", "collector:4317", "ftp://c:1", "http://", "http://host", "http://host:x", "http://[::"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(SetupError, match="write http://HOST:4317"):
        check_url(url)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return import_module(name)

    monkeypatch.setattr(exporting, "import_module", missing)
    with pytest.raises(SetupError, match=r"pip install 'osai\[traces\]'"):
        open_tracer("http://127.0.0.1:4317", "osai-node", "n")


def test_nothing_of_opentelemetry_is_imported_unless_it_is_wanted() -> None:
    program = (
        "import sys, osai.core.tracing.exporting, osai.core.tracing.span, osai.coordinator.tracing.traced; "
        "print(*[name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
    sources = [path for room in ROOMS for path in (ROOT / room / "osai").rglob("*.py")]
    assert len(sources) > 100
    imports = re.compile(r"^\s*(?:import|from) opentelemetry", re.MULTILINE)
    assert not [path for path in sources if imports.search(path.read_text())]
