"""What one peer has of a manifest, and its chunks, asked for over the wire. Nothing here is verified."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from osai.core.admission.roles import Role
from osai.core.errors import (
    DeadlineExceededError,
    OsaiError,
    ResourceExhaustedError,
    UnavailableError,
    WeightsError,
)
from osai.core.manifest import Chunk
from osai.core.member_channel import member_channel
from osai.core.member_tls import MemberTls
from osai.core.rpc import error_of
from osai.node.weights import bits
from osai.node.weights.blames import Fault
from osai.node.weights.chunk_table import ChunkTable
from osai.proto import weights_pb2, weights_pb2_grpc

HAVE_DEADLINE_S = 5.0
PART_DEADLINE_S = 8.0  # between two parts; a busy peer gives the next one later
GRACE_S = 1.0  # more: this node's own loop may have been held up, and what has come waits to be read
MAX_MESSAGE_BYTES = 4 * 2**20  # three sets of ten million chunks, or a part


class PeerFaultError(OsaiError):
    """A peer did not give a chunk; `fault` says why."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Sets of a manifest's chunks, as a peer says."""

    held: int
    sought: int
    fetching: int


class PeerChunks:
    """Asks one peer. Close it.

    Args:
        peer: its id.
        address: of its edge.
        tls: of this node; None in a public swarm.
    """

    def __init__(self, peer: str, address: str, tls: MemberTls | None) -> None:
        self.peer: Final = peer
        self.address: Final = address
        self._channel = member_channel(address, tls, Role.NODE, peer, max_message_bytes=MAX_MESSAGE_BYTES)
        self._stub = weights_pb2_grpc.WeightsStub(self._channel)

    async def have(self, table: ChunkTable, my_id: str) -> Holdings:
        """What it has; `my_id` tells it who asks.

        Raises:
            OsaiError: if it does not say, or what it says can't be.
        """
        request = weights_pb2.HaveRequest(manifest_digest=table.manifest_digest, node_id=my_id)
        try:
            reply: Any = await self._stub.Have(request, timeout=HAVE_DEADLINE_S)
        except grpc.aio.AioRpcError as e:
            raise error_of(e, self.address) from e
        return Holdings(
            held=bits.unpack(reply.held, len(table)),
            sought=bits.unpack(reply.sought, len(table)),
            fetching=bits.unpack(reply.fetching, len(table)),
        )

    async def fetch(self, chunk: Chunk) -> bytearray:
        """As many bytes as the chunk has; whether they are the chunk's is to be seen.

        Raises:
            PeerFaultError: if they do not come, or others do.
        """
        data = bytearray()
        call: Any = self._stub.Fetch(weights_pb2.FetchRequest(sha256=bytes.fromhex(chunk.sha256)))
        try:
            while (part := await _next_part(call, begun=bool(data))) is not None:
                if len(data) + len(part) > chunk.size_bytes:
                    raise PeerFaultError(Fault.TOO_MUCH, f"more than {chunk.size_bytes} bytes came")
                data += part
        finally:
            call.cancel()
        if len(data) < chunk.size_bytes:
            raise PeerFaultError(Fault.CUT, f"{len(data)} of {chunk.size_bytes} bytes came")
        return data

    async def close(self) -> None:
        """End the connection, and what goes on over it."""
        await self._channel.close()


async def _next_part(call: Any, *, begun: bool) -> bytes | None:  # noqa: ANN401 - a call of either kind of stub
    reading = asyncio.ensure_future(call.read())
    try:
        if not await _ends(reading, PART_DEADLINE_S) and not await _ends(reading, GRACE_S):
            raise PeerFaultError(Fault.STALLED, f"nothing came for {PART_DEADLINE_S:g} s")
        part = reading.result()
    except grpc.aio.AioRpcError as e:
        error = error_of(e)
        raise PeerFaultError(_fault_of(error, begun=begun), error.message) from e
    finally:
        reading.cancel()
    if part is grpc.aio.EOF:
        return None
    if not part.data:
        raise PeerFaultError(Fault.CUT, "an empty part came")
    return bytes(part.data)


async def _ends(reading: "asyncio.Future[Any]", within_s: float) -> bool:
    return bool((await asyncio.wait([reading], timeout=within_s))[0])


def _fault_of(error: OsaiError, *, begun: bool) -> Fault:
    if isinstance(error, ResourceExhaustedError | DeadlineExceededError):  # it can't, or this node was too slow
        return Fault.BUSY
    if begun:
        return Fault.LOST if isinstance(error, UnavailableError) else Fault.CUT
    return Fault.NOT_HELD if isinstance(error, WeightsError) else Fault.GONE
