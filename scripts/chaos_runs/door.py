"""One port for gRPC and for the bare streams beside it, as a node has one; for peers that are no nodes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import grpc.aio

from osai.core.frame_stream import PREFIX, TICKET_BYTES
from osai.core.rpc import bind

READ_BYTES = 2**16
OnBare = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]  # with the stream's ticket


@asynccontextmanager
async def both_ways(server: grpc.aio.Server, on_bare: OnBare) -> AsyncIterator[str]:
    """Serve `server`, which is started here, and bare streams; gives HOST:PORT.

    Args:
        server: with its services.
        on_bare: takes a bare stream until it ends; its ticket is read already.
    """
    grpc_port = bind(server, "127.0.0.1:0")
    await server.start()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            first = await reader.readexactly(1)
            if first == PREFIX[:1]:
                head = await reader.readexactly(len(PREFIX) + TICKET_BYTES - 1)
                await on_bare(head[len(PREFIX) - 1 :], reader, writer)
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", grpc_port)
            far_writer.write(first)
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    door = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{door.sockets[0].getsockname()[1]}"
    finally:
        door.close()
        await server.stop(None)


async def pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[bytes], None] = lambda _: None
) -> None:
    """Pass on what comes until it ends; `note` sees it first."""
    try:
        while data := await reader.read(READ_BYTES):
            note(data)
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
