"""The node's service of weights: who asks what is here, and gets chunks, no faster than the operator allows."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from osai.core.errors import DeadlineExceededError, InvalidRequestError, OsaiError, ResourceExhaustedError, WeightsError
from osai.core.identity import NODE_ID_HEX_DIGITS
from osai.core.port.callers import caller_host
from osai.core.rpc import abort
from osai.core.token_bucket import TokenBucket
from osai.node.weights import bits
from osai.node.weights.stock import Stock
from osai.proto import weights_pb2, weights_pb2_grpc

log = logging.getLogger(__name__)

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeLimits:
    """How much is given to others.

    Attributes:
        bytes_a_second: to all of them together; 0 for nothing at all.
        max_fetches: at a time; more are refused. It bounds the memory, a chunk each.
        max_fetches_of_host: of these for one host, so that one which takes its chunks slowly leaves places to others;
            enough for four joiners there, who ask for 2 each.
        part_bytes: of one message: short, so that frames of generations do not wait behind them.
        write_deadline_s: for a peer to take one.
        fetch_deadline_s: for a whole chunk.
    """

    bytes_a_second: int = 32 * 2**20
    max_fetches: int = 12
    max_fetches_of_host: int = 8
    part_bytes: int = 128 * 2**10
    write_deadline_s: float = 30.0
    fetch_deadline_s: float = 120.0


class WeightsService(weights_pb2_grpc.WeightsServicer):
    """Serves osai.v1.Weights from a stock.

    Args:
        stock: what may be given.
        limits: `bytes_a_second` is above 0.
        clock_s: seconds of a steady clock.
    """

    def __init__(self, stock: Stock, limits: ServeLimits, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._stock = stock
        self._limits = limits
        self._clock_s = clock_s
        self._bucket = TokenBucket.full(limits.bytes_a_second, limits.bytes_a_second, clock_s())
        self._looking = asyncio.Lock()
        self._of_hosts: Counter[str] = Counter()
        self.num_bytes = 0

    @property
    def num_fetches(self) -> int:
        """Chunks that are on their way to others."""
        return self._of_hosts.total()

    async def Have(self, request: weights_pb2.HaveRequest, context: Any) -> weights_pb2.HaveReply:  # noqa: N802, ANN401
        """What this node has of a manifest, and seeks."""
        try:
            offer = self._stock.offer(request.manifest_digest)
            if offer.on_asked is not None and len(request.node_id) == NODE_ID_HEX_DIGITS:
                offer.on_asked(request.node_id)
            async with self._looking:
                if self._stock.is_due(offer):
                    self._stock.looked(offer, await asyncio.to_thread(self._stock.look, offer))
        except OsaiError as e:
            await abort(context, e)
        return weights_pb2.HaveReply(
            held=bits.pack(offer.held), sought=bits.pack(offer.sought), fetching=bits.pack(offer.fetching)
        )

    async def Fetch(self, request: weights_pb2.FetchRequest, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
        """One chunk, in parts."""
        try:
            with self._place_for(caller_host(context.peer())):
                async with asyncio.timeout(self._limits.fetch_deadline_s):
                    await self._give(request.sha256, context)
        except TimeoutError:
            late = DeadlineExceededError("the chunk was not taken in time: ask for fewer at once")
            log.info("ended a fetch by %s: %s", context.peer(), late)
            await abort(context, late)
        except OsaiError as e:
            await abort(context, e)

    @contextmanager
    def _place_for(self, host: str) -> Iterator[None]:
        """W6 of docs/weights.md."""
        if self.num_fetches >= self._limits.max_fetches or self._of_hosts[host] >= self._limits.max_fetches_of_host:
            raise ResourceExhaustedError("this node gives weights to enough others just now", retry_after_s=1.0)
        self._of_hosts[host] += 1
        try:
            yield
        finally:
            self._of_hosts[host] -= 1
            if not self._of_hosts[host]:
                del self._of_hosts[host]

    async def _give(self, digest: bytes, context: Any) -> None:  # noqa: ANN401
        if len(digest) != DIGEST_BYTES:
            raise InvalidRequestError("a chunk is asked for by its SHA-256, 32 bytes")
        offer, number = self._stock.find(digest.hex())
        data = await asyncio.to_thread(self._stock.read, offer, number)
        if data is None:
            offer.lost(number)
            raise WeightsError("this node does not have that chunk any more: ask another one")
        for start in range(0, len(data), self._limits.part_bytes):
            part = data[start : start + self._limits.part_bytes]
            await asyncio.sleep(self._bucket.take(len(part), self._clock_s()))
            async with asyncio.timeout(self._limits.write_deadline_s):
                await context.write(weights_pb2.ChunkPart(data=part))
            self.num_bytes += len(part)
