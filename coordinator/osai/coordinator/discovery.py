"""The coordinator in the DHT: it announces itself, and learns of nodes and other coordinators."""

import asyncio
import logging
import time

from google.protobuf.message import DecodeError

from osai.coordinator.roster import Roster
from osai.coordinator.swarm import Swarm
from osai.coordinator.told_records import note_operator
from osai.coordinator.wire import read_node
from osai.core.directory import Directory
from osai.core.errors import OsaiError
from osai.core.records import COORDINATORS_KEY, NODES_KEY
from osai.proto import record_pb2

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 2.0  # between looks into the DHT: nodes that another coordinator holds show up this late
ANNOUNCE_INTERVAL_S = 10.0  # a third of the record's life, so that two may be lost
RECORD_TTL_S = 30.0


class Discovery:
    """What the DHT is told, and what it tells."""

    def __init__(self, directory: Directory, swarm: Swarm, roster: Roster) -> None:
        self._directory = directory
        self._swarm = swarm
        self._roster = roster

    async def announcing(self, record: record_pb2.CoordinatorRecord) -> None:
        """Keep this coordinator's record alive, until cancelled."""
        payload = record.SerializeToString()
        while True:
            try:
                await self._directory.announce(COORDINATORS_KEY, payload, ttl_s=RECORD_TTL_S)
            except OsaiError as e:
                log.warning("not announced: %s", e)
            await asyncio.sleep(ANNOUNCE_INTERVAL_S)

    async def looking(self) -> None:
        """Learn of nodes whose control streams other coordinators hold, and of these, until cancelled."""
        while True:
            try:
                await self._look()
            except OsaiError as e:
                log.warning("the DHT can't be read: %s", e)
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _look(self) -> None:
        payloads = await self._directory.read(NODES_KEY)
        self._roster.read(await self._directory.read(COORDINATORS_KEY))
        for node_id, payload in payloads.items():
            self._found(node_id, payload)
        self._swarm.expire(time.monotonic())

    def _found(self, node_id: str, payload: bytes) -> None:
        try:
            node = read_node(record_pb2.NodeRecord.FromString(payload), proven_at_s=time.time())  # the DHT's are signed
        except (OsaiError, DecodeError) as e:
            log.warning("dropped the DHT record of %s: %s", node_id, e)
            return
        if node.node_id == node_id:
            before = self._swarm.get(node_id)
            self._swarm.found(node, time.monotonic())
            note_operator(node, before, self._swarm.get(node_id))
