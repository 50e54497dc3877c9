"""The directory over real libp2p daemons on loopback: what members say is found, what others say of them is not."""

import asyncio
import gc
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osai.core import directory as directory_module
from osai.core.directory import Directory
from osai.core.errors import SetupError, UnavailableError
from osai.core.identity import Identity
from osai.core.record_guard import RecordGuard
from osai.core.records import COORDINATORS_KEY, MAX_RECORD_BYTES, NODES_KEY, seal

LOOPBACK = "127.0.0.1:0"
TTL_S = 30.0
# hivemind leaves the transport of a daemon that did not start to the garbage collector
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*BaseSubprocessTransport:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def no_daemon_left() -> Iterator[None]:
    """Every libp2p daemon must be gone when its directory is."""
    yield
    assert daemons() == []


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """What hivemind leaves to the collector is collected here, and not in another module's test."""
    yield
    gc.collect()


def daemons() -> list[int]:
    found = psutil.Process().children(recursive=True)
    return [child.pid for child in found if child.status() != psutil.STATUS_ZOMBIE and "p2pd" in child.name()]


@asynccontextmanager
async def members(count: int) -> AsyncIterator[list[Directory]]:
    """A DHT of so many members, the first of which founded it."""
    started: list[Directory] = []
    try:
        for _ in range(count):
            peers = started[0].addresses if started else ()
            started.append(await Directory.start(Identity.generate(), listen=LOOPBACK, initial_peers=peers))
        yield started
    finally:
        for member in reversed(started):
            await member.stop()


@asynccontextmanager
async def intruder(peers: Sequence[str]) -> AsyncIterator[Any]:
    """A DHT member that follows no rule of ours: hivemind's bare node."""
    from hivemind.dht.node import DHTNode

    node = await DHTNode.create(initial_peers=list(peers), host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    try:
        yield node
    finally:
        await node.shutdown()


async def test_members_find_each_others_records(tmp_path: Path) -> None:
    async with members(2) as (one, two):
        await one.announce(NODES_KEY, b"first", ttl_s=TTL_S)
        await two.announce(NODES_KEY, b"second", ttl_s=TTL_S)
        await two.announce(COORDINATORS_KEY, b"another key", ttl_s=TTL_S)
        expected = {one._identity.node_id: b"first", two._identity.node_id: b"second"}
        assert await one.read(NODES_KEY) == await two.read(NODES_KEY) == expected
        await one.announce(NODES_KEY, b"newer", ttl_s=TTL_S)
        assert (await two.read(NODES_KEY))[one._identity.node_id] == b"newer"
        assert list((await one.read(COORDINATORS_KEY)).values()) == [b"another key"]
        assert all(address.startswith("/ip4/127.0.0.1/tcp/") for address in one.addresses)
        assert await one.read("osai.v1.nothing") == {}


async def test_a_record_lapses() -> None:
    async with members(1) as (one,):
        await one.announce(NODES_KEY, b"short", ttl_s=0.3)
        assert list((await one.read(NODES_KEY)).values()) == [b"short"]
        await asyncio.sleep(0.4)
        assert await one.read(NODES_KEY) == {}


async def test_nobody_can_speak_for_a_member_nor_silence_it() -> None:
    """The DHT keeps what lapses last: records that no one could believe used to hide the member's own."""
    async with members(2) as (one, two), intruder(one.addresses) as evil:
        me = one._identity
        await one.announce(NODES_KEY, b"true", ttl_s=TTL_S)
        put_off = seal(me, NODES_KEY, b"old", time.time() + TTL_S)
        lies: list[tuple[object, Callable[[float], object]]] = [
            (me.node_id, lambda _: b"no record at all"),
            (me.node_id, lambda _: "not even bytes"),
            (me.node_id, lambda later_s: seal(Identity.generate(), NODES_KEY, b"a lie", later_s)),
            (me.node_id, lambda later_s: seal(me, COORDINATORS_KEY, b"another key's", later_s)),
            (me.node_id, lambda _: put_off),  # its own word, but under a later expiry
            (Identity.generate().node_id, lambda later_s: seal(me, NODES_KEY, b"elsewhere", later_s)),
            (7, lambda _: b"a number"),
            (None, lambda _: b"the whole key at once"),
        ]
        for i, (subkey, lie) in enumerate(lies):
            later_s = time.time() + 1000 + i
            await evil.store(NODES_KEY, lie(later_s), later_s, subkey=subkey)
            for member in (one, two):
                assert await member.read(NODES_KEY) == {me.node_id: b"true"}, lies[i]
        # the intruder takes nothing more under that key, and its answer may be the last: it must not count for all
        await two.announce(NODES_KEY, b"and heard", ttl_s=TTL_S)
        assert await one.read(NODES_KEY) == {me.node_id: b"true", two._identity.node_id: b"and heard"}


async def test_a_record_that_slipped_in_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """As from a member that does not guard its part of the DHT."""
    async with members(1) as (one,):
        await one.announce(NODES_KEY, b"true", ttl_s=TTL_S)
        one._dht.protocol.record_validator.validate = lambda _: True
        victim, later_s = Identity.generate(), time.time() + 1000
        await one._dht.store(NODES_KEY, b"forged", later_s, subkey=victim.node_id)
        await one._dht.store(NODES_KEY, ["not", "bytes"], later_s, subkey="x")
        assert await one.read(NODES_KEY) == {one._identity.node_id: b"true"}
        assert f"dropped a DHT record of {victim.node_id}" in caplog.text
        await one._dht.store(COORDINATORS_KEY, b"no dictionary", later_s)
        assert await one.read(COORDINATORS_KEY) == {}


async def test_a_key_that_osai_does_not_know_is_not_stored() -> None:
    async with members(1) as (one,):
        with pytest.raises(UnavailableError, match=r"no DHT member stored the record under osai\.v1\.junk"):
            await one.announce("osai.v1.junk", b"x", ttl_s=TTL_S)


@pytest.mark.parametrize("libp2p", [True, False])
async def test_a_port_in_use_is_an_error(*, libp2p: bool) -> None:
    """Two libp2p daemons used to share a port without a word, and each got the other's peers."""
    async with members(1) as (one,):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = int(one.addresses[0].split("/")[4]) if libp2p else taken.getsockname()[1]
            with pytest.raises(SetupError, match=f"127.0.0.1:{port}: is the port in use.* --dht"):
                await Directory.start(Identity.generate(), listen=f"127.0.0.1:{port}")


async def test_a_port_is_free_again_after_a_member() -> None:
    async with members(2) as (one, _):
        port = int(one.addresses[0].split("/")[4])
    again = await Directory.start(Identity.generate(), listen=f"127.0.0.1:{port}")
    assert int(again.addresses[0].split("/")[4]) == port
    await again.stop()


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("127.0.0.1", "write HOST:PORT"),
        ("127.0.0.1:x", "write HOST:PORT"),
        ("192.0.2.1:0", "can't listen on 192.0.2.1:0"),
        ("no-such-host.invalid:0", "can't listen on no-such-host.invalid:0"),
        ("127.0.0.1:99999", "can't listen on 127.0.0.1:99999"),
    ],
)
async def test_addresses_that_can_not_be_listened_on(listen: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        await Directory.start(Identity.generate(), listen=listen)


async def test_a_host_name_can_be_listened_on() -> None:
    """libp2p takes addresses alone: a name used to be refused with words about dialling."""
    one = await Directory.start(Identity.generate(), listen="localhost:0")
    assert one.addresses
    await one.stop()


async def test_no_member_answers_where_none_is() -> None:
    async with members(1) as (one,):
        gone = one.addresses
    for peers in (gone, ("nonsense",)):
        with pytest.raises(UnavailableError, match=r"no DHT member answers at .*; check the address"):
            await Directory.start(Identity.generate(), listen=LOOPBACK, initial_peers=peers)


async def test_a_libp2p_host_that_is_no_member_is_unavailable_and_no_daemon_stays() -> None:
    """Hivemind leaves the daemon of a member that could not join running."""
    from hivemind.p2p import P2P

    stranger = await P2P.create(host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    try:
        before = daemons()
        peers = [str(address) for address in await stranger.get_visible_maddrs()]
        with pytest.raises(UnavailableError, match="no DHT member answers"):
            await Directory.start(Identity.generate(), listen=LOOPBACK, initial_peers=peers)
        assert daemons() == before
    finally:
        await stranger.shutdown()


async def test_a_member_keeps_its_address_over_a_restart(tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        one = await Directory.start(Identity.generate(), listen=LOOPBACK, key_file=tmp_path / "libp2p.key")
        ids.append(one.addresses[0].rpartition("/")[2])
        await one.stop()
    assert ids[0] == ids[1]


async def test_operations_have_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(directory_module, "OPERATION_DEADLINE_S", 0.05)
    dht = SimpleNamespace(store=never, get=never, shutdown=never)
    one = Directory(dht, Identity.generate(), ())
    with pytest.raises(UnavailableError, match="no DHT member stored"):
        await one.announce(NODES_KEY, b"x", ttl_s=TTL_S)
    with pytest.raises(UnavailableError, match="did not end within"):
        await one.read(NODES_KEY)
    await one.stop()  # says so in the log, and goes


def loads(data: bytes) -> object:
    """As hivemind's, for what the tests put in: text, or bytes after a colon."""
    return data[1:] if data.startswith(b":") else data.decode()


ME = Identity.generate()
EXPIRY_S = 2_000_000_000.5


def validated(subkey: bytes, value: bytes, key: bytes = b"place", expiry_s: float = EXPIRY_S) -> bool:
    guard = RecordGuard({b"place": NODES_KEY}, loads)
    return guard.validate(SimpleNamespace(key=key, subkey=subkey, value=value, expiration_time=expiry_s))


def test_the_guard_lets_a_members_own_word_through() -> None:
    sealed = b":" + seal(ME, NODES_KEY, b"hi", EXPIRY_S)
    assert validated(ME.node_id.encode(), sealed)
    assert not validated(ME.node_id.encode(), sealed, expiry_s=EXPIRY_S + 1)
    assert not validated(ME.node_id.encode(), sealed, key=b"elsewhere")
    assert not validated(Identity.generate().node_id.encode(), sealed)
    assert not validated(ME.node_id.encode(), seal(ME, NODES_KEY, b"as text", EXPIRY_S).hex().encode())


def test_the_guard_takes_no_record_over_the_limit() -> None:
    assert not validated(ME.node_id.encode(), b":" + seal(ME, NODES_KEY, bytes(MAX_RECORD_BYTES), EXPIRY_S))
    assert not validated(ME.node_id.encode(), b":" + bytes(10 * MAX_RECORD_BYTES))


@settings(max_examples=30)
@given(subkey=st.binary(max_size=40), value=st.binary(max_size=200), flips=st.lists(st.integers(0, 150), max_size=2))
def test_the_guard_survives_anything(subkey: bytes, value: bytes, flips: list[int]) -> None:
    assert not validated(subkey, value)
    sealed = bytearray(seal(ME, NODES_KEY, b"hi", EXPIRY_S))
    for at in {at % len(sealed) for at in flips}:
        sealed[at] ^= 1
    assert validated(ME.node_id.encode(), b":" + bytes(sealed)) == (not flips)


async def test_a_member_on_loopback_leaves_the_network_s_gateway_alone() -> None:
    """libp2p asks the gateway for a port mapping unless told otherwise."""
    async with members(1):
        daemons = [child.cmdline() for child in psutil.Process().children() if "p2pd" in child.name()]
    assert daemons
    assert all({"-natPortMap=0", "-autonat=0"} <= set(line) for line in daemons)
