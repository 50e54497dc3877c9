"""`osai.core.rpc` over real loopback sockets: errors keep their type, ports and frozen peers are noticed."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.core import errors, rpc
from osai.proto import common_pb2

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler = Callable[[bytes, Context], Awaitable[bytes]]
ALL_ERRORS = [t for t in vars(errors).values() if isinstance(t, type) and issubclass(t, errors.OsaiError)]
SILENT_SERVER = """
import asyncio, grpc
from osai.core import rpc
async def silent(request, context):
    await asyncio.sleep(60)
async def main():
    server, calls = rpc.make_server(), {"Call": grpc.unary_unary_rpc_method_handler(silent)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", calls),))
    print(rpc.bind(server, "127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()
asyncio.run(main())
"""


@asynccontextmanager
async def raw_server(handler: Handler, *, max_message_bytes: int = rpc.CLIENT_API_MAX_BYTES) -> AsyncIterator[str]:
    """A server whose call /t/Call takes and gives bytes."""
    server = rpc.make_server(max_message_bytes=max_message_bytes)
    call: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(handler)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", {"Call": call}),))
    port = rpc.bind(server, "127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def echo(request: bytes, context: Context) -> bytes:
    return request


async def call(address: str, request: bytes = b"", *, method: str = "/t/Call", timeout_s: float = 5) -> bytes:
    async with rpc.insecure_channel(address) as channel:
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        return await unary(request, timeout=timeout_s)


async def error_at(address: str, request: bytes = b"", *, method: str = "/t/Call", timeout_s: float = 5) -> Exception:
    with pytest.raises(grpc.RpcError) as caught:
        await call(address, request, method=method, timeout_s=timeout_s)
    return rpc.error_of(caught.value, address)


@pytest.mark.parametrize("error_type", ALL_ERRORS)
async def test_every_error_crosses_the_wire_with_its_code(error_type: type[errors.OsaiError]) -> None:
    async def handler(request: bytes, context: Context) -> bytes:
        await rpc.abort(context, error_type("layers 2:4 are gone; wait for a node", subject="node-ü"))

    async with raw_server(handler) as address:
        error = await error_at(address)
    assert isinstance(error, errors.OsaiError)
    assert (error.code, error.message) == (error_type.code, "layers 2:4 are gone; wait for a node")
    assert error.subject == "node-ü"
    assert type(error) is type(errors.from_proto(error_type("x").to_proto()))


@pytest.mark.parametrize(
    ("error_type", "status"),
    [
        (errors.UnknownModelError, grpc.StatusCode.NOT_FOUND),
        (errors.NotCoveredError, grpc.StatusCode.UNAVAILABLE),
        (errors.ContextExceededError, grpc.StatusCode.OUT_OF_RANGE),
        (errors.ResourceExhaustedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.ProtocolMismatchError, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.WeightsError, grpc.StatusCode.DATA_LOSS),
    ],
)
async def test_status_is_the_one_that_other_tools_expect(
    error_type: type[errors.OsaiError], status: grpc.StatusCode
) -> None:
    async def handler(request: bytes, context: Context) -> bytes:
        await rpc.abort(context, error_type("no"))

    async with raw_server(handler) as address:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(address)
    assert caught.value.code() is status


@pytest.mark.parametrize("letter", ["a", "\N{SKULL AND CROSSBONES}", "\N{PILE OF POO}"])
async def test_long_messages_arrive_marked_as_cut(letter: str) -> None:
    async def handler(request: bytes, context: Context) -> bytes:
        await rpc.abort(context, errors.WeightsError(letter * 10_000, subject=letter * 10_000))

    async with raw_server(handler) as address:
        for _ in range(20):  # near its limit gRPC drops headers at random
            error = await error_at(address)
            assert isinstance(error, errors.WeightsError)
            assert error.message.endswith(" [... cut]")
            assert error.message.startswith(letter * 700)


async def test_nothing_listening_names_the_address() -> None:
    error = await error_at("127.0.0.1:9")
    assert isinstance(error, errors.UnavailableError)
    assert "127.0.0.1:9" in error.message


async def test_plain_deadline_unknown_call_and_crash_are_typed() -> None:
    async def handler(request: bytes, context: Context) -> bytes:
        if request == b"crash":
            raise KeyError("secret of the server")
        await asyncio.sleep(30)
        return b""

    async with raw_server(handler) as address:
        assert isinstance(await error_at(address, timeout_s=0.2), errors.DeadlineExceededError)
        assert isinstance(await error_at(address, method="/t/Other"), errors.ProtocolMismatchError)
        assert isinstance(await error_at(address, b"crash"), errors.InternalError)


async def test_message_over_the_limit_is_refused_on_both_sides() -> None:
    async def handler(request: bytes, context: Context) -> bytes:
        return bytes(rpc.CLIENT_API_MAX_BYTES + 1)

    async with raw_server(handler, max_message_bytes=2 * rpc.CLIENT_API_MAX_BYTES) as address:
        assert isinstance(await error_at(address), errors.ResourceExhaustedError)
        assert isinstance(await error_at(address, bytes(rpc.CLIENT_API_MAX_BYTES + 1)), errors.ResourceExhaustedError)


async def test_compressed_message_is_refused() -> None:
    async with (
        raw_server(echo) as address,
        grpc.aio.insecure_channel(address, compression=grpc.Compression.Gzip) as channel,
    ):
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/t/Call")
        with pytest.raises(grpc.aio.AioRpcError):
            await unary(bytes(100_000), timeout=5)
        assert await call(address, bytes(100_000)) == bytes(100_000)


async def test_port_in_use_is_an_error() -> None:
    async with raw_server(echo) as address:
        with pytest.raises(errors.SetupError, match=f"{address}.*in use"):
            rpc.bind(rpc.make_server(), address)
    with pytest.raises(errors.SetupError, match="can't listen on nonsense"):
        rpc.bind(rpc.make_server(), "nonsense:port")


async def test_frozen_peer_is_noticed_within_seconds() -> None:
    """A SIGSTOPped server keeps its sockets open: only the keepalive's ping timeout sees it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SILENT_SERVER, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    try:
        address = f"127.0.0.1:{int(await asyncio.wait_for(process.stdout.readline(), 20))}"
        hanging = asyncio.create_task(error_at(address, timeout_s=30))
        await asyncio.sleep(3)  # a healthy but silent peer stays connected over several pings
        assert not hanging.done()
        process.send_signal(signal.SIGSTOP)
        frozen_at = time.monotonic()
        error = await hanging
        assert isinstance(error, errors.UnavailableError), error
        assert time.monotonic() - frozen_at < 5
    finally:
        process.kill()
        await process.wait()


@given(
    code=st.sampled_from(list(grpc.StatusCode)),
    details=st.one_of(st.none(), st.text(max_size=50)),
    metadata=st.lists(st.tuples(st.sampled_from([rpc.ERROR_METADATA_KEY, "other"]), st.binary(max_size=40))),
)
def test_any_status_of_any_peer_becomes_a_typed_error(
    code: grpc.StatusCode, details: str | None, metadata: list[tuple[str, bytes]]
) -> None:
    trailing = grpc.aio.Metadata(*metadata)
    failed = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=details)
    error = rpc.error_of(failed, "h:1")
    assert isinstance(error, errors.OsaiError)
    assert error.to_proto().code != common_pb2.ERROR_CODE_UNSPECIFIED
