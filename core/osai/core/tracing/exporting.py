"""Spans on their way to an OpenTelemetry collector. Nothing of OpenTelemetry is imported unless traces are wanted."""

import logging
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from osai.core.errors import SetupError
from osai.core.tracing.span import SpanData, SpanRef

log = logging.getLogger(__name__)

EXPORT_TIMEOUT_S = 5.0
SHUTDOWN_S = 2.0  # for the last spans when the program ends; OpenTelemetry itself would wait for half a minute


class Tracer(Protocol):
    """Takes spans that have ended."""

    def add(self, span: SpanData) -> None:
        """Take one; it never waits, and drops what a slow collector leaves no room for."""
        ...


class _Ids:
    """Gives OpenTelemetry the ids that a span has already."""

    def __init__(self) -> None:
        self.ref = SpanRef(trace_id=1, span_id=1)

    def generate_trace_id(self) -> int:
        return self.ref.trace_id

    def generate_span_id(self) -> int:
        return self.ref.span_id

    def is_trace_id_random(self) -> bool:
        return False


class OtelTracer:
    """Gives spans to an OpenTelemetry exporter, in batches, from a thread of its own.

    Use it as a context manager; at its end it waits for SHUTDOWN_S at most.

    Args:
        service: of the resource: "osai-node", "osai-coordinator".
        instance: the member's id.
        exporter: an OpenTelemetry SpanExporter.

    Raises:
        SetupError: if OpenTelemetry is not installed.
    """

    def __init__(self, service: str, instance: str, exporter: Any) -> None:  # noqa: ANN401 - see _load
        self._api, sdk, export = _load("trace"), _load("sdk.trace"), _load("sdk.trace.export")
        resource = _load("sdk.resources").Resource.create(
            {"service.name": service, "service.namespace": "osai", "service.instance.id": instance}
        )
        self._ids = _Ids()
        self._provider = sdk.TracerProvider(
            resource=resource, id_generator=self._ids, sampler=_load("sdk.trace.sampling").ALWAYS_ON,
            shutdown_on_exit=False,
        )  # fmt: skip
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("osai")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        ending = threading.Thread(target=self._provider.shutdown, name="osai-traces-end", daemon=True)
        ending.start()
        ending.join(SHUTDOWN_S)

    def add(self, span: SpanData) -> None:
        """See Tracer."""
        if not span.ref.sampled:
            return
        api, self._ids.ref = self._api, span.ref
        parent = api.set_span_in_context(api.NonRecordingSpan(self._context(span.parent))) if span.parent else None
        made = self._tracer.start_span(
            span.name,
            context=parent if parent is not None else _load("context").Context(),
            kind=api.SpanKind.SERVER if span.kind == "server" else api.SpanKind.INTERNAL,
            attributes=dict(span.attributes),
            links=[api.Link(self._context(ref)) for ref in span.links],
            start_time=_ns(span.begun_s),
        )
        if span.error:
            made.set_status(api.Status(api.StatusCode.ERROR, span.error))
        made.end(_ns(span.ended_s))

    def _context(self, ref: SpanRef) -> Any:  # noqa: ANN401 - see _load
        flags = self._api.TraceFlags(int(ref.sampled))
        return self._api.SpanContext(ref.trace_id, ref.span_id, is_remote=True, trace_flags=flags)


def open_tracer(url: str, service: str, instance: str, exporter: Callable[[str], Any] | None = None) -> OtelTracer:
    """A tracer whose spans go to the OTLP gRPC collector at `url`, http(s)://HOST:PORT.

    Raises:
        SetupError: if the address is none, or OpenTelemetry is not installed.
    """
    make = exporter or _otlp
    tracer = OtelTracer(service, instance, make(check_url(url)))
    log.info("traces go to %s", urlsplit(url).netloc.rpartition("@")[2])
    return tracer


def check_url(url: str) -> str:
    """The collector's address as it is given to OpenTelemetry.

    Raises:
        SetupError: if it is none.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port
    except ValueError:
        usable = None
    if not usable:
        raise SetupError("--traces (OTEL_EXPORTER_OTLP_ENDPOINT) is no address; write http://HOST:4317 or https://...")
    return url


def _ns(at_s: float) -> int:
    """To the microsecond: a float of seconds since 1970 holds no more."""
    return round(at_s * 1_000_000) * 1000


def _otlp(url: str) -> Any:  # noqa: ANN401 - see _load
    exporting = _load("exporter.otlp.proto.grpc.trace_exporter")
    return exporting.OTLPSpanExporter(endpoint=url, insecure=url.startswith("http://"), timeout=EXPORT_TIMEOUT_S)


def _load(name: str) -> Any:  # noqa: ANN401 - a library that need not be there has no types
    try:
        return import_module(f"opentelemetry.{name}")
    except ImportError as e:
        raise SetupError("traces need OpenTelemetry: pip install 'osai[traces]', or leave out --traces") from e
