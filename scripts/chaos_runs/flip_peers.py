"""Peers and lines that flip a byte of what they carry, and an honest source beside."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from scripts.chaos_runs.door import READ_BYTES, pump

from osai.core.errors import InternalError
from osai.core.manifest import SignedManifest
from osai.core.rpc import bind, make_server
from osai.node.weights import bits
from osai.node.weights.chunk_table import ChunkTable
from osai.node.weights.service import ServeLimits, WeightsService
from osai.node.weights.source import LocalFolder
from osai.node.weights.stock import Offer, Stock
from osai.proto import record_pb2, weights_pb2, weights_pb2_grpc

FIRST_FLIP, LAST_FLIP = 2_000, 60_000  # of what a peer sends: past the greeting, and within the first chunk
SERVE_BYTES_S = 2**30


@dataclass(slots=True)
class Away:
    """A folder as if it were far away: a node that has its model in a folder asks nobody. It counts what it gives."""

    folder: Path
    num_bytes: int = 0

    def read(self, file: str, begin: int, end: int) -> bytearray:
        """See CheckpointSource."""
        self.num_bytes += end - begin
        return LocalFolder(self.folder).read(file, begin, end)

    def size(self, file: str) -> int:
        """See CheckpointSource."""
        return LocalFolder(self.folder).size(file)

    def list_files(self) -> frozenset[str]:
        """See CheckpointSource."""
        return LocalFolder(self.folder).list_files()

    def describe(self) -> str:
        """See CheckpointSource."""
        return "a far place"


@dataclass(slots=True)
class KnownRecords:
    """What a load asks of the DHT."""

    by_id: dict[str, bytes] = field(default_factory=dict)

    async def read(self, key: str) -> Mapping[str, bytes]:  # noqa: ARG002 - there is but one key
        """Payloads by member id."""
        return dict(self.by_id)

    def add(self, node_id: str, address: str, manifest_digest: bytes) -> None:
        """A node that serves the model."""
        span = record_pb2.SpanRecord(manifest_digest=manifest_digest, state="ready")
        record = record_pb2.NodeRecord(node_id=node_id, edge_address=address, spans=[span], state="ready")
        self.by_id[node_id] = record.SerializeToString()


@dataclass(slots=True)
class Flipper:
    """Where it is reached, and how many bytes it has flipped."""

    address: str
    num_flipped: int = 0


class _FlippingService(weights_pb2_grpc.WeightsServicer):
    """Has everything, and flips a byte of each chunk that it gives."""

    def __init__(self, signed: SignedManifest, folder: Path, random: Random) -> None:
        self._table, self._folder, self._random = ChunkTable(signed), LocalFolder(folder), random
        self.told = Flipper("")

    async def Have(self, request: weights_pb2.HaveRequest, context: Any) -> weights_pb2.HaveReply:  # noqa: N802, ANN401, ARG002
        return weights_pb2.HaveReply(held=bits.pack((1 << len(self._table)) - 1))

    async def Fetch(self, request: weights_pb2.FetchRequest, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
        number = self._table.number(request.sha256.hex())
        if number is None:
            raise InternalError("a chunk was asked for that is none of the manifest's")
        chunk = self._table.chunks[number]
        data = self._folder.read(chunk.file, chunk.begin, chunk.end)
        data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        self.told.num_flipped += 1
        await context.write(weights_pb2.ChunkPart(data=bytes(data)))


@asynccontextmanager
async def flipping_peer(signed: SignedManifest, folder: Path, random: Random) -> AsyncIterator[Flipper]:
    """A node that flips a byte of each chunk."""
    service = _FlippingService(signed, folder, random)
    async with _serving(service) as service.told.address:
        yield service.told


@asynccontextmanager
async def honest_peer(signed: SignedManifest, folder: Path) -> AsyncIterator[str]:
    """A node that gives what is right, by osai's own service; its address."""
    stock, table = Stock(None), ChunkTable(signed)
    offer = Offer(table=table, folder=LocalFolder(folder))
    stock.looked(offer, stock.look(offer))
    stock.add(offer)
    async with _serving(WeightsService(stock, ServeLimits(bytes_a_second=SERVE_BYTES_S))) as address:
        yield address


@asynccontextmanager
async def _serving(service: weights_pb2_grpc.WeightsServicer) -> AsyncIterator[str]:
    server = make_server()
    weights_pb2_grpc.add_WeightsServicer_to_server(service, server)
    port = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def flipping_line(address: str, random: Random) -> AsyncIterator[Flipper]:
    """A line to `address` that flips one byte of what comes back; what is said there stays as it is."""
    at, mask = random.randrange(FIRST_FLIP, LAST_FLIP), 1 << random.randrange(8)
    host, _, port = address.rpartition(":")
    told = Flipper("")

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        try:
            while data := await reader.read(READ_BYTES):
                if not told.num_flipped and passed <= at < passed + len(data):
                    data = data[: at - passed] + bytes([data[at - passed] ^ mask]) + data[at - passed + 1 :]
                    told.num_flipped += 1
                passed += len(data)
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            await asyncio.gather(pump(reader, far_writer), back(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    told.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield told
    finally:
        server.close()
