"""The shell around Delays: learns of peers from the DHT, and sends probes over the edges."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Protocol

from google.protobuf.message import DecodeError

from osai.core.errors import OsaiError
from osai.core.layers import LayerRange
from osai.core.records import NODES_KEY
from osai.node.delays import Delays, HostedLayers, Neighbour, successors
from osai.node.membership import SpanStatus
from osai.node.stages.stage import Peer
from osai.proto import record_pb2

log = logging.getLogger(__name__)

TICK_S = 0.5
FIRST_LOOK_S = 2.0  # between looks into the DHT at first: a swarm that starts together is complete soon
LOOK_S = 10.0  # later; what takes its place is probed within a life of its record
LOOK_S_PER_RECORD = 0.1  # at least: checking a record's signature takes 0.1 ms, and holds up the loop
PROBE_VERSION = 2  # of the protocol: older nodes return no probe


class ProbingRing(Protocol):
    """What is needed of the ring."""

    def probe(self, peer: Peer) -> None:
        """Send a probe; its echo comes to the ring's `on_echo`."""
        ...


class NodeRecords(Protocol):
    """What is needed of osai.core.directory.Directory."""

    async def read(self, key: str) -> Mapping[str, bytes]:
        """Payloads under `key` by member id."""
        ...


class DelayProbes:
    """Keeps the delays to this node's possible successors.

    Args:
        my_id: this node's id.
        ring: sends probes.
        spans: this node's spans now.
        directory: the node's, once it has joined one.
    """

    def __init__(
        self,
        my_id: str,
        ring: ProbingRing,
        spans: Callable[[], Sequence[SpanStatus]],
        directory: Callable[[], NodeRecords | None],
        random: Random | None = None,
    ) -> None:
        self._my_id = my_id
        self._ring = ring
        self._spans = spans
        self._directory = directory
        self._random = random or Random()  # noqa: S311 - jitter
        self._delays = Delays(self._random)

    @property
    def estimates(self) -> Mapping[str, float]:
        """One-way seconds by node id."""
        return self._delays.estimates()

    def echoed(self, node_id: str, round_trip_s: float) -> None:
        """A probe has come back."""
        if (peer := self._delays.echoed(node_id, round_trip_s, time.monotonic())) is not None:
            self._probe(peer)

    async def run(self) -> None:
        """Look and probe until cancelled."""
        next_look_s, interval_s = 0.0, FIRST_LOOK_S
        while True:
            mine = [_hosted(span) for span in self._spans() if span.state == "ready"]
            directory = self._directory()
            if mine and directory is not None and time.monotonic() >= next_look_s:
                num_records = await self._look(directory, mine)
                interval_s = max(min(2 * interval_s, LOOK_S), LOOK_S_PER_RECORD * num_records)
                next_look_s = time.monotonic() + interval_s * self._random.uniform(0.8, 1.2)
            for peer in self._delays.due(time.monotonic()):
                self._probe(peer)
            await asyncio.sleep(TICK_S)

    async def _look(self, directory: NodeRecords, mine: Sequence[HostedLayers]) -> int:
        """Read who there is; how many records there are."""
        try:
            payloads = await directory.read(NODES_KEY)
        except OsaiError as e:
            log.info("no look for peers to measure delays to: %s", e)
            return 0
        others = [
            other
            for node_id, payload in payloads.items()
            if node_id != self._my_id and (other := read_neighbour(node_id, payload)) is not None
        ]
        self._delays.found(successors(mine, others), time.monotonic())
        return len(payloads)

    def _probe(self, peer: Peer) -> None:
        try:
            self._ring.probe(peer)
        except OsaiError as e:  # no echo comes: that is noted
            log.debug("no probe to %s: %s", peer.node_id, e)


def _hosted(span: SpanStatus) -> HostedLayers:
    return HostedLayers(model_id=span.model_id, manifest_digest=span.manifest_digest, layers=span.layers)


def read_neighbour(node_id: str, payload: bytes) -> Neighbour | None:
    """A node out of its record; None where it succeeds nobody: too old, draining, or not to be understood."""
    try:
        record = record_pb2.NodeRecord.FromString(payload)
        spans = tuple(
            HostedLayers(
                model_id=span.model_id,
                manifest_digest=span.manifest_digest,
                layers=LayerRange(span.span.start, span.span.end),
            )
            for span in record.spans
            if span.state == "ready"
        )
    except (DecodeError, OsaiError) as e:
        log.debug("the record of %s is left out: %s", node_id, e)
        return None
    serves = record.state != "draining" and record.protocol_version >= PROBE_VERSION
    if record.node_id != node_id or not record.edge_address or not serves:
        return None
    return Neighbour(peer=Peer(node_id=node_id, address=record.edge_address), spans=spans)
