"""The coordinators of the swarm, as the DHT tells of them. Pure."""

import logging
from collections.abc import Mapping

from google.protobuf.message import DecodeError

from osai.proto import record_pb2

log = logging.getLogger(__name__)

MAX_ADDRESS_CHARS = 255
MAX_NAMED = 64  # coordinators that clients are told of; in a public swarm anybody may say that he is one


class Roster:
    """Coordinators that live, by id, and this one's place among them."""

    def __init__(self, coordinator_id: str) -> None:
        self._me = coordinator_id
        self._addresses: dict[str, str] = {}

    def read(self, payloads: Mapping[str, bytes]) -> None:
        """Records of the DHT, by the id of who signed them; those that have lapsed are not among them."""
        self._addresses = {}
        for coordinator_id, payload in payloads.items():
            try:
                record = record_pb2.CoordinatorRecord.FromString(payload)
            except DecodeError as e:
                log.warning("dropped the DHT record of coordinator %s: %s", coordinator_id, e)
                continue
            if record.coordinator_id == coordinator_id and 0 < len(record.grpc_address) <= MAX_ADDRESS_CHARS:
                self._addresses[coordinator_id] = record.grpc_address

    @property
    def rank(self) -> int:
        """How many coordinators have a lower id."""
        return sum(coordinator_id < self._me for coordinator_id in self._addresses)

    def addresses(self, own: str) -> tuple[str, ...]:
        """HOST:PORT of the coordinators, `own` first, then in order of their ids, and not too many."""
        others = [at for name, at in sorted(self._addresses.items()) if name != self._me and at != own]
        return (own, *list(dict.fromkeys(others))[: MAX_NAMED - 1])
