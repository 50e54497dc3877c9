"""What a step's results cost on their way: written into a frame, carried over one hop, read again."""

import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, cast

import torch

from osai.core.frames import FrameShape, check_batch
from osai.core.link import Outbox
from osai.core.link_pool import LinkPool
from osai.core.rpc import EDGE_MAX_BYTES, make_server
from osai.node.edge_port import EdgePort
from osai.node.edge_service import EdgeService
from osai.node.engine.api import Rows
from osai.node.wire import WIRE_DTYPES, read_rows, read_tensor, write_batch
from osai.proto import edge_pb2, edge_pb2_grpc

if TYPE_CHECKING:
    from osai.node.ring import Ring

_LISTEN = "127.0.0.1:0"
_DEADLINE_S = 10.0  # for one hop
_NUM_WARM_UPS = 20
_GRACE_S = 0.1


class _Receiver:
    """What an edge service needs of a ring: notes when messages come."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[float] = asyncio.Queue()

    def attach(self, peer: str, *_who: object, **_where: str) -> tuple[int, Outbox[edge_pb2.LinkMessage]]:
        return 1, Outbox(peer, 1)

    def detach(self, owner: int) -> None:
        """Nothing to forget."""

    async def receive(self, _owner: int, _message: edge_pb2.LinkMessage) -> None:
        self.arrived.put_nowait(time.perf_counter())


def frame_of(num_sessions: int, tensor: torch.Tensor) -> tuple[tuple[Rows, ...], edge_pb2.LinkMessage]:
    """A decode step's frame: one row a session of `tensor`, [num_sessions] int32 or [num_sessions, hidden_size]."""
    rows = tuple(Rows(session=2**63 + i, epoch=1, position=1000 + i, count=1) for i in range(num_sessions))
    return rows, write_batch(rows, tensor)


def serialisation_s(num_sessions: int, tensor: torch.Tensor, num_times: int) -> float:
    """Seconds to write a step's frame to bytes, and to read, check and unpack it at the other end; the median."""
    shape = FrameShape(dtype=WIRE_DTYPES[tensor.dtype], hidden_size=tensor.shape[1] if tensor.ndim > 1 else None)
    times = []
    for _ in range(num_times):
        start_s = time.perf_counter()
        _, message = frame_of(num_sessions, tensor)
        read = edge_pb2.LinkMessage.FromString(message.SerializeToString())
        check_batch(read.frames, shape)
        rows, got = [read_rows(frame) for frame in read.frames.frames], read_tensor(read.frames)
        times.append(time.perf_counter() - start_s)
        if len(rows) != num_sessions or not torch.equal(got, tensor):
            raise ValueError("a frame that was read differs from the one written")
    return median(times)


async def hops_s(messages: Sequence[edge_pb2.LinkMessage], num_times: int) -> list[float]:
    """Seconds of one hop of each message through a real link and edge service, both here; medians."""
    receiver, server = _Receiver(), make_server(max_message_bytes=EDGE_MAX_BYTES)
    async with EdgePort.listening(server, _LISTEN) as port:
        service = EdgeService("bench", cast("Ring", receiver), port)
        edge_pb2_grpc.add_EdgeServicer_to_server(service, server)
        await server.start()
        try:
            async with LinkPool("bench-peer", lambda *_: None, lambda *_: None) as pool:
                link = pool.wire("bench", f"127.0.0.1:{port.port}")
                medians = []
                for message in messages:
                    times = []
                    for i in range(_NUM_WARM_UPS + num_times):
                        start_s = time.perf_counter()
                        link.send(message)
                        async with asyncio.timeout(_DEADLINE_S):
                            arrived_s = await receiver.arrived.get()
                        if i >= _NUM_WARM_UPS:
                            times.append(arrived_s - start_s)
                    medians.append(median(times))
                return medians
        finally:
            await server.stop(_GRACE_S)
