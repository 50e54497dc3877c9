"""The swarm's directory: signed records of members in a hivemind DHT (Kademlia over libp2p).

hivemind's DHTNode runs on the caller's event loop; its libp2p daemon is a child process. What the DHT returns is a
hint: every record is checked (osai.core.records), and the ones that fail are dropped with a line in the log.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from osai.core.errors import OsaiError, SetupError, TrustError, UnavailableError
from osai.core.identity import Identity
from osai.core.records import seal, unseal

log = logging.getLogger(__name__)

START_DEADLINE_S = 30.0  # bootstrap over slow links takes some seconds; a dead peer must not hold the start longer
OPERATION_DEADLINE_S = 10.0  # a lookup is a few round trips


def to_multiaddr(host_port: str) -> str:
    """The libp2p address to listen on for `HOST:PORT` (IPv4, IPv6 in brackets, or a DNS name)."""
    host, _, port = host_port.rpartition(":")
    if not port.isdecimal() or not host:
        raise SetupError(f"{host_port!r} is no address; write HOST:PORT")
    host = host.strip("[]")
    kind = "ip6" if ":" in host else "ip4" if host.replace(".", "").isdecimal() else "dns"
    return f"/{kind}/{host}/tcp/{port}"


class Directory:
    """One member's view of the DHT. Build it with `start`."""

    def __init__(self, dht: Any, identity: Identity, addresses: tuple[str, ...]) -> None:  # noqa: ANN401 - untyped library
        self._dht = dht
        self._identity = identity
        self.addresses = addresses

    @classmethod
    async def start(
        cls, identity: Identity, *, listen: str, initial_peers: Sequence[str] = (), key_file: Path | None = None
    ) -> Self:
        """Join the DHT through any of `initial_peers`, or found one where there are none.

        Args:
            identity: signs this member's records.
            listen: HOST:PORT for libp2p; port 0 takes a free one.
            initial_peers: libp2p multiaddrs of members.
            key_file: where libp2p keeps its own key, so that the multiaddr survives a restart.

        Raises:
            SetupError: if the address can't be listened on.
            UnavailableError: if none of the peers answers.
        """
        from hivemind.dht.node import DHTNode  # noqa: PLC0415 - brings torch: only for those who join a DHT

        try:
            async with asyncio.timeout(START_DEADLINE_S):
                dht = await DHTNode.create(
                    initial_peers=list(initial_peers) or None,
                    host_maddrs=[to_multiaddr(listen)],
                    identity_path=str(key_file) if key_file else None,
                    ensure_bootstrap_success=bool(initial_peers),
                )
                addresses = await dht.protocol.p2p.get_visible_maddrs()
        except OsaiError:
            raise
        except Exception as e:  # hivemind raises many kinds, some of them private
            if initial_peers:
                raise UnavailableError(
                    f"no DHT member answers at {', '.join(initial_peers)} ({e or type(e).__name__}); "
                    "check the address and that the member runs"
                ) from e
            raise SetupError(f"the DHT can't listen on {listen} ({e or type(e).__name__}); choose another --dht") from e
        return cls(dht, identity, tuple(str(address) for address in addresses))

    async def announce(self, key: str, payload: bytes, *, ttl_s: float) -> None:
        """Store this member's record under `key`; it lapses `ttl_s` seconds from now unless announced again.

        Raises:
            UnavailableError: if no member stored it in time.
        """
        expiry_s = time.time() + ttl_s
        value = seal(self._identity, key, payload, expiry_s)
        try:
            async with asyncio.timeout(OPERATION_DEADLINE_S):
                stored = await self._dht.store(key, value, expiry_s, subkey=self._identity.node_id)
        except TimeoutError:
            stored = False
        if not stored:
            raise UnavailableError(f"no DHT member stored the record under {key}")

    async def read(self, key: str) -> dict[str, bytes]:
        """Payloads under `key` by member id; records that can't be believed are left out.

        Raises:
            UnavailableError: if the lookup did not end in time.
        """
        try:
            async with asyncio.timeout(OPERATION_DEADLINE_S):
                found = await self._dht.get(key, latest=True)
        except TimeoutError as e:
            raise UnavailableError(f"the DHT lookup of {key} did not end within {OPERATION_DEADLINE_S:.0f} s") from e
        if found is None or not isinstance(found.value, dict):
            return {}
        payloads: dict[str, bytes] = {}
        now_s = time.time()
        for subkey, stored in found.value.items():
            value = stored.value if isinstance(stored.value, bytes) else b""  # unseal refuses an empty record
            try:
                payloads[subkey] = unseal(value, key, subkey, now_s)
            except TrustError as e:
                log.warning("dropped a DHT record of %s: %s", subkey, e)
        return payloads

    async def stop(self) -> None:
        """Leave the DHT and end its daemon."""
        try:
            async with asyncio.timeout(OPERATION_DEADLINE_S):
                await self._dht.shutdown()
        except TimeoutError:
            log.warning("the DHT did not shut down within %.0f s", OPERATION_DEADLINE_S)
