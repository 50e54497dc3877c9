"""gRPC as every room of osai speaks it: channel and server options, binding, and errors that keep their type.

A failure travels as a gRPC status whose trailing metadata carry the typed error: `abort` sends it, `error_of` reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Never

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from osai.core.errors import (
    DeadlineExceededError,
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    OsaiError,
    ProtocolMismatchError,
    ResourceExhaustedError,
    SetupError,
    UnauthenticatedError,
    UnavailableError,
    from_proto,
)
from osai.core.reading import Reading
from osai.proto import common_pb2

Options = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pings:
    """HTTP/2 pings, by which a frozen peer is noticed; gRPC's default takes a minute and more.

    Attributes:
        interval_ms: between pings.
        timeout_ms: for the answer.
    """

    interval_ms: int
    timeout_ms: int


# control streams and clients: heartbeats and deadlines see to the rest, and a machine that is loading may be slow
PATIENT = Pings(interval_ms=1000, timeout_ms=2000)
# edges: a session waits for every frame; noticed within 2 s, and no healthy round trip is as long
WATCHFUL = Pings(interval_ms=500, timeout_ms=1000)

ERROR_METADATA_KEY = "osai-error-bin"
CLIENT_API_MAX_BYTES = 4 * 2**20  # a prompt of a million token ids, or four million characters
EDGE_MAX_BYTES = 64 * 2**20  # a prefill chunk of 2048 tokens of hidden size 8192 in float32

MIN_PING_INTERVAL_MS = 200  # what a server puts up with: pings that queue up on their way come closer together. The
# default, 5 min, drops our own clients after 15 s
MIN_BACKOFF_MS = 100  # before the first reconnection: a restarted node is back at once
MAX_BACKOFF_MS = 2000  # so that a peer that comes back is not left alone for gRPC's default of 2 min
CONNECT_TIMEOUT_MS = 5000  # of one attempt, name resolution and TLS included
HANDSHAKE_TIMEOUT_MS = 10_000  # who connects and never ends the handshake holds a socket no longer; gRPC's: 2 min
MAX_CALLS_PER_CONNECTION = 1024  # bounds what one peer can hold open
MAX_CALLS = 32_768  # of a server; a coordinator has a control stream from each node, and its clients' generations
MAX_IDLE_MS = 600_000  # a connection without a call is closed; whoever wants it again dials anew, unseen
MAX_METADATA_BYTES = 8192  # of a call's headers: a key of an API and little else; above it they may be refused
MAX_ANY_METADATA_BYTES = 16_384  # and always are from here on
MAX_ERROR_MESSAGE_CHARS = 800  # a status travels in HTTP/2 headers: 8 KiB is all there is, whatever the alphabet
MAX_ERROR_SUBJECT_CHARS = 200  # a tensor's name or a node's id
MAX_STATUS_DETAIL_CHARS = 100  # gRPC's own text, for people with other tools; each byte may take three

_STATUS_OF_CODE: dict[int, grpc.StatusCode] = {
    common_pb2.ERROR_CODE_INTERNAL: grpc.StatusCode.INTERNAL,
    common_pb2.ERROR_CODE_PROTOCOL_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    common_pb2.ERROR_CODE_INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    common_pb2.ERROR_CODE_UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    common_pb2.ERROR_CODE_NOT_COVERED: grpc.StatusCode.UNAVAILABLE,  # passes once nodes join: trying again makes sense
    common_pb2.ERROR_CODE_CONTEXT_EXCEEDED: grpc.StatusCode.OUT_OF_RANGE,
    common_pb2.ERROR_CODE_RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    common_pb2.ERROR_CODE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    common_pb2.ERROR_CODE_DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    common_pb2.ERROR_CODE_CANCELLED: grpc.StatusCode.CANCELLED,
    common_pb2.ERROR_CODE_BAD_FRAME: grpc.StatusCode.INVALID_ARGUMENT,
    common_pb2.ERROR_CODE_UNKNOWN_SESSION: grpc.StatusCode.NOT_FOUND,
    common_pb2.ERROR_CODE_MANIFEST: grpc.StatusCode.PERMISSION_DENIED,
    common_pb2.ERROR_CODE_WEIGHTS: grpc.StatusCode.DATA_LOSS,
    common_pb2.ERROR_CODE_ASSIGNMENT: grpc.StatusCode.FAILED_PRECONDITION,
    common_pb2.ERROR_CODE_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    common_pb2.ERROR_CODE_FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
}

# What a status without our metadata means: gRPC's own, or a server's that is not osai.
_PLAIN: dict[grpc.StatusCode, tuple[type[OsaiError], str]] = {
    grpc.StatusCode.OK: (UnavailableError, "{peer} ended the call"),  # while something was being sent
    grpc.StatusCode.UNAVAILABLE: (
        UnavailableError,
        "no connection to {peer} ({details}): is the address right, and is it running?",
    ),
    grpc.StatusCode.CANCELLED: (  # our own cancellation is asyncio's; this one is the peer's
        UnavailableError,
        "{peer} ended the call ({details}): it may be shutting down; try again",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        DeadlineExceededError,
        "{peer} did not answer in time ({details}): try again, or allow more time",
    ),
    grpc.StatusCode.UNIMPLEMENTED: (
        ProtocolMismatchError,
        "{peer} does not know this call ({details}): is it osai, and as new as this side?",
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        ResourceExhaustedError,
        "{peer} refused the call ({details}): send less, or try again later",
    ),
    grpc.StatusCode.INVALID_ARGUMENT: (InvalidRequestError, "{peer} refused the request: {details}"),
    grpc.StatusCode.NOT_FOUND: (InvalidRequestError, "{peer} refused the request: {details}"),
    grpc.StatusCode.OUT_OF_RANGE: (InvalidRequestError, "{peer} refused the request: {details}"),
    grpc.StatusCode.PERMISSION_DENIED: (ForbiddenError, "{peer} refused access: {details}"),
    grpc.StatusCode.UNAUTHENTICATED: (UnauthenticatedError, "{peer} refused access: {details}"),
}


def _shared_options(max_sent_bytes: int, max_received_bytes: int, pings: Pings) -> Options:
    return (
        ("grpc.max_send_message_length", max_sent_bytes),
        ("grpc.max_receive_message_length", max_received_bytes),
        ("grpc.keepalive_time_ms", pings.interval_ms),
        ("grpc.keepalive_timeout_ms", pings.timeout_ms),
        ("grpc.http2.ping_timeout_ms", pings.timeout_ms),  # without it a stopped peer is noticed after a minute
        ("grpc.http2.max_pings_without_data", 0),  # no limit: a stream may be silent for long
        ("grpc.default_compression_algorithm", grpc.Compression.NoCompression),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # identity alone: compressed messages are refused
    )


def channel_options(max_message_bytes: int, pings: Pings = PATIENT) -> Options:
    """Options of a channel: keepalive, message limits, no compression, no retries, no proxies."""
    return (
        *_shared_options(max_message_bytes, max_message_bytes, pings),
        ("grpc.enable_retries", 0),  # a generation is not idempotent; whoever calls decides
        ("grpc.enable_http_proxy", 0),  # a proxy of the environment must not come between members
        ("grpc.use_local_subchannel_pool", 1),  # a channel is one connection of its own: lanes don't share one
        ("grpc.initial_reconnect_backoff_ms", MIN_BACKOFF_MS),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", MAX_BACKOFF_MS),
    )


def server_options(max_message_bytes: int, pings: Pings = PATIENT) -> Options:
    """Options of a server that accepts the keepalive of `channel_options` and never shares its port.

    The limit is on what comes in; what the server itself sends may be as large as an edge takes (a manifest).
    """
    return (
        *_shared_options(EDGE_MAX_BYTES, max_message_bytes, pings),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        ("grpc.so_reuseport", 0),  # a port in use is an error, not a second listener
        ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_ANY_METADATA_BYTES),
        ("grpc.max_connection_idle_ms", MAX_IDLE_MS),
    )


def insecure_channel(
    address: str, *, max_message_bytes: int = CLIENT_API_MAX_BYTES, pings: Pings = PATIENT
) -> grpc.aio.Channel:
    """A plain-text channel to `address` (host:port); connects on its first call."""
    return grpc.aio.insecure_channel(address, options=channel_options(max_message_bytes, pings))


def make_server(
    *,
    max_message_bytes: int = CLIENT_API_MAX_BYTES,
    pings: Pings = PATIENT,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> grpc.aio.Server:
    """A server without services or ports yet. Requests are read by osai.core.reading; `interceptors` come before it."""
    return grpc.aio.server(
        options=server_options(max_message_bytes, pings),
        interceptors=[*interceptors, Reading(abort)],
        maximum_concurrent_rpcs=MAX_CALLS,
    )


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
    """Listen on `address` (host:port, port 0 for a free one) and return the port.

    Raises:
        SetupError: if the address can't be bound.
    """
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as e:
        raise SetupError(f"can't listen on {address}: is the port in use? Choose another, or 0 for a free one") from e
    if port == 0:
        raise SetupError(f"can't listen on {address}: write HOST:PORT with an address of this machine")
    return port


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: OsaiError) -> Never:
    """End a call with a typed error. It raises, so nothing after it runs; do not catch what it raises."""
    wire = error.to_proto()
    wire.message = _bounded(wire.message)
    wire.subject = _bounded(wire.subject, MAX_ERROR_SUBJECT_CHARS)
    metadata = ((ERROR_METADATA_KEY, wire.SerializeToString()),)
    status = _STATUS_OF_CODE.get(error.code, grpc.StatusCode.INTERNAL)
    await context.abort(status, _bounded(error.message, MAX_STATUS_DETAIL_CHARS), trailing_metadata=metadata)


def _bounded(text: str, max_chars: int = MAX_ERROR_MESSAGE_CHARS) -> str:
    cut = " [... cut]"
    return text if len(text) <= max_chars else text[: max_chars - len(cut)] + cut


def error_of(failure: grpc.RpcError, address: str = "") -> OsaiError:
    """The typed error of a failed call to `address`: the peer's own, or else what gRPC's status says."""
    # grpc.RpcError is the base class alone; what is raised is a call too, with code, details and metadata
    call: Any = failure
    typed = _typed_error(call.trailing_metadata() if hasattr(failure, "trailing_metadata") else None)
    if typed is not None:
        return typed
    if not hasattr(failure, "code"):
        return InternalError(f"call to {address or 'the peer'} failed: {failure}")
    return _plain_error(call.code(), call.details() or "no details", address or "the peer")


def _typed_error(metadata: Any) -> OsaiError | None:  # noqa: ANN401 - two unrelated classes, sync and async
    for key, value in metadata or ():
        if key == ERROR_METADATA_KEY and isinstance(value, bytes):
            try:
                return from_proto(common_pb2.Error.FromString(value))
            except DecodeError:
                return None
    return None


def _plain_error(code: grpc.StatusCode, details: str, peer: str) -> OsaiError:
    error_type, words = _PLAIN.get(code, (InternalError, "{peer} failed with {code}: {details}; its log says more"))
    return error_type(words.format(peer=peer, code=code.name, details=details))
