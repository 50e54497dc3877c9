"""The swarm's directory: signed records of members in a hivemind DHT (Kademlia over libp2p).

hivemind's DHTNode runs on the caller's event loop; its libp2p daemon is a child process. What the DHT returns is a
hint: every record is checked (osai.core.records), and the ones that fail are dropped with a line in the log.
"""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from osai.core.errors import OsaiError, SetupError, TrustError, UnavailableError
from osai.core.identity import Identity
from osai.core.member_tls import MemberTls
from osai.core.record_guard import RecordGuard
from osai.core.records import COORDINATORS_KEY, NODES_KEY, seal, unseal

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


def _check_free(address: tuple[Any, ...], family: int) -> None:
    """Refuse a port that something listens on already: libp2p would share it with another libp2p without a word."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a predecessor do not count
        try:
            probe.bind(address)
        except OSError as e:
            why = "is the port in use? " if e.errno == errno.EADDRINUSE else f"{e.strerror}; "
            raise SetupError(f"the DHT can't listen on {address[0]}:{address[1]}: {why}choose another --dht") from e


async def _resolve(listen: str) -> str:
    """`HOST:PORT` with the host as an IP address, which is all that libp2p listens on; the port must be free.

    Raises:
        SetupError: if the host is unknown or the port in use.
    """
    to_multiaddr(listen)  # refuses another form
    host, _, port = listen.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as e:
        raise SetupError(f"the DHT can't listen on {listen}: {e.strerror}; choose another --dht") from e
    family, _, _, _, address = found[0]
    _check_free(address, family)
    return f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"


async def _join(
    address: str, peers: list[str] | None, key_file: Path | None, tls: MemberTls | None
) -> tuple[Any, tuple[str, ...]]:
    """Start hivemind's node and its daemon, which ends again where the rest fails; the node, and its multiaddrs."""
    # these bring torch: only for those who join a DHT
    from hivemind.dht.node import DHTNode  # noqa: PLC0415
    from hivemind.p2p import P2P  # noqa: PLC0415

    reaches_out = not ip_address(address.rpartition(":")[0].strip("[]")).is_loopback
    async with AsyncExitStack() as undo:
        p2p = await P2P.create(
            initial_peers=peers,
            host_maddrs=[to_multiaddr(address)],
            identity_path=str(key_file) if key_file else None,
            nat_port_map=reaches_out,  # a swarm on loopback has no business with the network's gateway
            auto_nat=reaches_out,
            startup_timeout=START_DEADLINE_S,
        )
        undo.push_async_callback(p2p.shutdown)
        dht = await DHTNode.create(
            p2p=p2p, initial_peers=peers, ensure_bootstrap_success=bool(peers), record_validator=_guard(tls)
        )
        addresses = tuple(str(address) for address in await p2p.get_visible_maddrs())
        undo.pop_all()
    return dht, addresses


def _guard(tls: MemberTls | None) -> RecordGuard:
    from hivemind.dht.protocol import DHTProtocol  # noqa: PLC0415 - as above
    from hivemind.dht.routing import DHTID  # noqa: PLC0415

    keys = {DHTID.generate(source=key).to_bytes(): key for key in (NODES_KEY, COORDINATORS_KEY)}
    return RecordGuard(keys, DHTProtocol.serializer.loads, tls.peer_of if tls else None)


class Directory:
    """One member's view of the DHT. Build it with `start`."""

    def __init__(
        self,
        dht: Any,  # noqa: ANN401 - untyped library
        identity: Identity,
        addresses: tuple[str, ...],
        tls: MemberTls | None = None,
    ) -> None:
        self._dht = dht
        self._tls = tls
        self._identity = identity
        self.addresses = addresses

    @classmethod
    async def start(
        cls,
        identity: Identity,
        *,
        listen: str,
        initial_peers: Sequence[str] = (),
        key_file: Path | None = None,
        tls: MemberTls | None = None,
    ) -> Self:
        """Join the DHT through any of `initial_peers`, or found one where there are none.

        Args:
            identity: signs this member's records.
            listen: HOST:PORT for libp2p; port 0 takes a free one.
            initial_peers: libp2p multiaddrs of members.
            key_file: where libp2p keeps its own key, so that the multiaddr survives a restart.
            tls: of this member, in a private swarm: records carry its certificate, and others' must carry theirs.

        Raises:
            SetupError: if the address can't be listened on.
            UnavailableError: if none of the peers answers.
        """
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                dht, addresses = await _join(await _resolve(listen), list(initial_peers) or None, key_file, tls)
        except OsaiError:
            raise
        except Exception as e:  # hivemind raises many kinds, some of them private
            if initial_peers:
                raise UnavailableError(
                    f"no DHT member answers at {', '.join(initial_peers)} ({e or type(e).__name__}); "
                    "check the address and that the member runs"
                ) from e
            raise SetupError(f"the DHT can't listen on {listen} ({e or type(e).__name__}); choose another --dht") from e
        return cls(dht, identity, addresses, tls)

    async def announce(self, key: str, payload: bytes, *, ttl_s: float) -> None:
        """Store this member's record under `key`; it lapses `ttl_s` seconds from now unless announced again.

        Raises:
            UnavailableError: if no member stored it in time.
        """
        expiry_s = time.time() + ttl_s
        value = seal(self._identity, key, payload, expiry_s, self._tls.credentials.leaf_pem if self._tls else b"")
        try:
            async with asyncio.timeout(OPERATION_DEADLINE_S):
                stored = await self._dht.store(key, value, expiry_s, subkey=self._identity.node_id)
                stored = stored or await self._holds(key, expiry_s)  # it says what the last member said: others took it
        except TimeoutError:
            stored = False
        if not stored:
            raise UnavailableError(f"no DHT member stored the record under {key}")

    async def _holds(self, key: str, expiry_s: float) -> bool:
        found = await self._dht.get(key, latest=True)
        records = found.value if found is not None and isinstance(found.value, dict) else {}
        mine = records.get(self._identity.node_id)
        return bool(mine is not None and mine.expiration_time == expiry_s)

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
                payloads[subkey] = unseal(value, key, subkey, now_s, self._tls.peer_of if self._tls else None)
            except TrustError as e:
                log.warning("dropped a DHT record of %s: %s", subkey, e)
        return payloads

    async def stop(self) -> None:
        """Leave the DHT and end its daemon."""
        try:
            async with asyncio.timeout(OPERATION_DEADLINE_S):
                await self._dht.shutdown()
                await self._dht.p2p.shutdown()
        except TimeoutError:
            log.warning("the DHT did not shut down within %.0f s", OPERATION_DEADLINE_S)
