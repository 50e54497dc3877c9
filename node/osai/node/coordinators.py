"""Where this node finds a coordinator."""

import logging

from osai.core.directory import Directory
from osai.core.errors import OsaiError, SetupError
from osai.core.records import COORDINATORS_KEY
from osai.proto import record_pb2

log = logging.getLogger(__name__)


def is_multiaddr(address: str) -> bool:
    """Whether `address` is a libp2p multiaddr rather than HOST:PORT.

    Raises:
        SetupError: if it is neither.
    """
    if address.startswith("/"):
        if "/p2p/" not in address:
            raise SetupError(f"{address!r} names no peer; a libp2p address ends in /p2p/PEER")
        return True
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 2**16):
        raise SetupError(f"{address!r} is no address; write HOST:PORT or a libp2p multiaddr")
    return False


def host_of(address: str) -> str:
    """The host in HOST:PORT or in a libp2p multiaddr (/ip4/HOST/tcp/...)."""
    return address.split("/")[2] if is_multiaddr(address) else address.rpartition(":")[0].strip("[]")


class Coordinators:
    """Addresses to try, in turn: the one that was given, then those in the DHT."""

    def __init__(self, given: str | None) -> None:
        self._known = [given] if given else []
        self._next = 0

    async def refresh(self, directory: Directory) -> None:
        """Add the coordinators that the DHT knows."""
        try:
            payloads = await directory.read(COORDINATORS_KEY)
        except OsaiError as e:
            log.warning("coordinators can't be looked up: %s", e)
            return
        for payload in payloads.values():
            address = record_pb2.CoordinatorRecord.FromString(payload).grpc_address
            if address and address not in self._known:
                self._known.append(address)

    def next(self) -> str | None:
        """The address to try now; None where none is known."""
        if not self._known:
            return None
        address = self._known[self._next % len(self._known)]
        self._next += 1
        return address
