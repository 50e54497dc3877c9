"""Nodes that give and get weights over real gRPC on loopback, without engines; and some of ill will."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import torch
from safetensors.torch import save_file

from osai.client.signing import build_manifest
from osai.core.errors import WeightsError
from osai.core.gatekeeper import Gatekeeper
from osai.core.layers import LayerRange
from osai.core.manifest import SignedManifest, parse, unsigned
from osai.core.member_tls import MemberTls
from osai.core.rpc import EDGE_MAX_BYTES, abort, bind, make_server
from osai.node.weights import bits
from osai.node.weights.cache import ChunkCache
from osai.node.weights.chunk_table import ChunkTable
from osai.node.weights.lookout import LookoutConfig, Swarm
from osai.node.weights.plan_actions import PlanConfig
from osai.node.weights.service import ServeLimits, WeightsService
from osai.node.weights.source import LocalFolder
from osai.node.weights.spread import Origin, Spread
from osai.node.weights.verified import VerifiedCheckpoint
from osai.proto import record_pb2, weights_pb2, weights_pb2_grpc

CHUNK = 64 * 2**10
NAMES = tuple(f"model.layers.{i}.mlp.up_proj.weight" for i in range(4))
LAYERS = LayerRange(0, 4)
QUICK = PlanConfig(
    settle_s=0.3, patience_s=1.0, deadline_s=1.5, source_deadline_s=5.0, idle_s=3.0, rest_s=0.1, max_rest_s=0.3
)
QUICK_LOOKS = LookoutConfig(look_s=0.1, poll_s=0.1, settle_s=0.3, rest_s=0.3, no_directory_s=0.5)
Context = grpc.aio.ServicerContext[Any, Any]


def make_checkpoint(folder: Path) -> SignedManifest:
    """Four layers of five and a half chunks each, all different."""
    tensors = {name: torch.arange(11 * CHUNK // 8, dtype=torch.float32) + 10**6 * i for i, name in enumerate(NAMES)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"num_hidden_layers": 4}')
    return parse(unsigned(build_manifest(folder, "me/large", 1, "mit", chunk_bytes=CHUNK)))


@dataclass
class CountedSource(LocalFolder):
    """A source somewhere far away, and how many bytes it gave."""

    folder: Path
    num_bytes: int = 0
    change_at: int | None = None
    is_down: bool = False

    def __post_init__(self) -> None:
        super().__init__(self.folder)

    def read(self, file: str, begin: int, end: int) -> bytearray:
        if self.is_down:
            raise WeightsError("the source is down")
        data = super().read(file, begin, end)
        self.num_bytes += len(data)
        if self.change_at is not None and begin <= self.change_at < end:
            data[self.change_at - begin] ^= 1
        return data


class Far:
    """Hides that a source is a folder: nodes serve those from where they are."""

    def __init__(self, source: LocalFolder) -> None:
        self._source = source

    def read(self, file: str, begin: int, end: int) -> bytearray:
        return self._source.read(file, begin, end)

    def size(self, file: str) -> int:
        return self._source.size(file)

    def list_files(self) -> frozenset[str]:
        return self._source.list_files()

    def describe(self) -> str:
        return "a far place"


@dataclass
class Records:
    """What is needed of a DHT."""

    by_id: dict[str, bytes] = field(default_factory=dict)

    async def read(self, key: str) -> Mapping[str, bytes]:
        return dict(self.by_id)

    def add(self, node_id: str, address: str, digest: bytes, state: str = "ready") -> None:
        span = record_pb2.SpanRecord(manifest_digest=digest, state=state)
        record = record_pb2.NodeRecord(node_id=node_id, edge_address=address, spans=[span], state="ready")
        self.by_id[node_id] = record.SerializeToString()


@dataclass
class SpreadNode:
    """One that loads, and gives what it has."""

    name: str
    spread: Spread
    records: Records
    address: str
    service: WeightsService
    cache: ChunkCache | None

    async def load(self, signed: SignedManifest, origin: Origin) -> dict[str, torch.Tensor]:
        """Every tensor, through the reader that a node uses; served from then on."""

        async def announce() -> None:
            self.records.add(self.name, self.address, signed.digest, "loading")

        self.spread.swarm = Swarm(directory=lambda: self.records, announce=announce)
        async with self.spread.loading("me/large", signed, origin, LAYERS, ["config.json"]) as taking:
            taking.want(NAMES)
            checkpoint = VerifiedCheckpoint(taking.source, signed)
            loaded = await asyncio.to_thread(lambda: {name: checkpoint.tensor(name)[...] for name in NAMES})
            assert await asyncio.to_thread(checkpoint.file, "config.json")
        await announce()
        return loaded


@asynccontextmanager
async def node(
    name: str,
    records: Records,
    cache: ChunkCache | None,
    tls: MemberTls | None = None,
    *,
    plan: PlanConfig = QUICK,
    limits: ServeLimits | None = None,
) -> AsyncIterator[SpreadNode]:
    spread = Spread(name, cache, tls, gives=True, plan=plan, lookout=QUICK_LOOKS)
    service = WeightsService(spread.stock, limits or ServeLimits())
    async with serving(service, tls) as address:
        yield SpreadNode(name, spread, records, address, service, cache)


@asynccontextmanager
async def serving(service: weights_pb2_grpc.WeightsServicer, tls: MemberTls | None = None) -> AsyncIterator[str]:
    server = make_server(max_message_bytes=EDGE_MAX_BYTES, interceptors=[Gatekeeper(tls)] if tls else [])
    weights_pb2_grpc.add_WeightsServicer_to_server(service, server)
    port = bind(server, "127.0.0.1:0", tls.server_credentials() if tls else None)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class BadService(weights_pb2_grpc.WeightsServicer):
    """Says that it has everything; what it gives is up to `kind`."""

    def __init__(self, signed: SignedManifest, folder: Path, kind: str) -> None:
        self._table = ChunkTable(signed)
        self._folder = LocalFolder(folder)
        self._kind = kind
        self.asked: list[bytes] = []

    async def Have(self, request: weights_pb2.HaveRequest, context: Context) -> weights_pb2.HaveReply:  # noqa: N802
        count = len(self._table)
        if self._kind == "impossible have":
            return weights_pb2.HaveReply(held=b"\xff" * (count + 8))
        return weights_pb2.HaveReply(held=bits.pack((1 << count) - 1))

    async def Fetch(self, request: weights_pb2.FetchRequest, context: Context) -> None:  # type: ignore[override] # noqa: N802
        self.asked.append(request.sha256)
        number = self._table.number(request.sha256.hex())
        assert number is not None
        data = self._read(number)
        half = len(data) // 2
        if self._kind in {"breaks half way", "stalls"}:
            await context.write(weights_pb2.ChunkPart(data=data[:half]))
        if self._kind in {"stalls", "never answers"}:
            await asyncio.sleep(30)
        if self._kind in {"breaks half way", "does not have it"}:
            await abort(context, WeightsError("something broke"))
        while self._kind == "sends nothing for ever":
            await context.write(weights_pb2.ChunkPart())
        changed = {
            "flips a byte": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :],
            "sends too much": data + b"\0",
            "sends another chunk": self._read(number - 1),
            "closes half way": data[:half],
        }
        await context.write(weights_pb2.ChunkPart(data=changed[self._kind]))

    def _read(self, number: int) -> bytes:
        chunk = self._table.chunks[number]
        return bytes(self._folder.read(chunk.file, chunk.begin, chunk.end))
