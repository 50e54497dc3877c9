"""A thousand records that nobody could believe: none is stored, none is believed, and none hides an honest one."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count, cycle, islice
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts.chaos_runs.mutants import damaged

from admission.members import Member
from coordinator.builders import node, span
from core.test_directory import LOOPBACK, TTL_S, collected, intruder, no_daemon_left
from osai.coordinator.discovery import Discovery
from osai.coordinator.roster import Roster
from osai.coordinator.swarm import NODE_TTL_S, NodeState, Swarm
from osai.core.admission import Authority, Role
from osai.core.directory import Directory
from osai.core.errors import TrustError
from osai.core.identity import Identity
from osai.core.member_tls import MemberTls
from osai.core.record_guard import RecordGuard
from osai.core.records import COORDINATORS_KEY, NODES_KEY, seal, unseal
from osai.proto import record_pb2
from private.swarm_members import PrivateSwarm

__all__ = ["collected", "no_daemon_left"]

NUM_RECORDS = 1000
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*BaseSubprocessTransport:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning"),
]


class Forger:
    """Makes records of a member that are not to be believed, one after the other, of each kind in turn.

    Attributes:
        me: whose they are said to be.
        expiry_s: under which they are to be stored.
    """

    def __init__(self, swarm: PrivateSwarm, me: Member, expiry_s: float) -> None:
        self.me, self.expiry_s = me, expiry_s
        self._random, self._sound = Random(3), seal(me.identity, NODES_KEY, b"true", expiry_s, me.leaf)
        self._client = Member.of(swarm.authority, Role.CLIENT, now_s=time.time())
        self._foreign = Member.of(Authority.create(time.time(), Random(9).randbytes), Role.NODE, now_s=time.time())
        self._old = seal(me.identity, NODES_KEY, b"old", expiry_s - 500, me.leaf)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        words = (self._forged, self._replayed, self._untagged, self._another_key, self._damaged)
        kinds = (*words, self._foreign_leaf, self._another_role)
        for make in cycle(kinds):
            yield make.__name__, make()

    def _sealed(self, identity: Identity, leaf: bytes, key: str = NODES_KEY) -> bytes:
        return seal(identity, key, b"a lie", self.expiry_s, leaf)

    def _forged(self) -> bytes:
        return self._sealed(Identity.generate(), self.me.leaf)

    def _replayed(self) -> bytes:
        """Its own word, under a later expiry."""
        return self._old

    def _untagged(self) -> bytes:
        record = record_pb2.SignedRecord.FromString(self._sound)
        record.ClearField("signature")
        record.payload = self._random.randbytes(8)
        return record.SerializeToString()

    def _foreign_leaf(self) -> bytes:
        return self._sealed(self.me.identity, self._foreign.leaf)

    def _another_role(self) -> bytes:
        return self._sealed(self.me.identity, self._client.leaf)

    def _another_key(self) -> bytes:
        return self._sealed(self.me.identity, self.me.leaf, COORDINATORS_KEY)

    def _damaged(self) -> bytes:
        changed = self._sound
        while changed == self._sound:
            changed = damaged(self._sound, self._random)
        return changed


def member_of(swarm: PrivateSwarm) -> tuple[Member, MemberTls]:
    """A node whose keys the test has too."""
    from osai.core.admission import Credentials, Gate

    member, now_s = Member.of(swarm.authority, Role.NODE, now_s=time.time()), time.time()
    anchor, member_id = swarm.authority.anchor, member.identity.node_id
    credentials = Credentials.read(member.leaf, member.key, anchor, role=Role.NODE, member_id=member_id, now_s=now_s)
    return member, MemberTls(credentials, Gate.opened(anchor, swarm.revoked(), now_s), swarm.clock)


def means_the_same(record: bytes, sound: bytes) -> bool:
    """Whether two records say the same: bytes may differ that are no part of what is said."""
    with suppress(Exception):
        return record_pb2.SignedRecord.FromString(record) == record_pb2.SignedRecord.FromString(sound)
    return False


def test_a_guard_and_a_reader_believe_none_of_a_thousand() -> None:
    swarm = PrivateSwarm()
    member, tls = member_of(swarm)
    expiry_s, node_id = time.time() + 1000, member.identity.node_id
    sound = seal(member.identity, NODES_KEY, b"true", expiry_s, member.leaf)
    guard = RecordGuard({b"place": NODES_KEY}, lambda data: node_id if data == b"me" else data, tls.peer_of)

    def stored(value: bytes, expires_s: float = expiry_s) -> bool:
        return guard.validate(SimpleNamespace(key=b"place", subkey=b"me", value=value, expiration_time=expires_s))

    assert stored(sound)
    assert unseal(sound, NODES_KEY, node_id, time.time(), tls.peer_of) == b"true"
    refused = 0
    for kind, record in islice(Forger(swarm, member, expiry_s), NUM_RECORDS):
        if means_the_same(record, sound):
            continue
        assert not stored(record), kind
        refused += 1
        if kind != "_replayed":  # within its own time it is the member's word; `Swarm` sees that it is old
            with pytest.raises(TrustError):
                unseal(record, NODES_KEY, node_id, time.time(), tls.peer_of)
    assert refused > 0.95 * NUM_RECORDS
    with pytest.raises(TrustError, match="expired"):
        unseal(sound, NODES_KEY, node_id, expiry_s, tls.peer_of)
    assert not stored(sound, expiry_s + 1)


async def test_a_real_dht_keeps_none_of_a_thousand_and_the_honest_record_is_read() -> None:
    swarm = PrivateSwarm()
    (one, one_tls), (two, two_tls) = member_of(swarm), member_of(swarm)
    first = await Directory.start(one.identity, listen=LOOPBACK, tls=one_tls)
    second = await Directory.start(two.identity, listen=LOOPBACK, initial_peers=first.addresses, tls=two_tls)
    try:
        await first.announce(NODES_KEY, b"true", ttl_s=TTL_S)
        async with intruder(first.addresses) as evil:
            forger, expiry_s = Forger(swarm, one, time.time() + 1000), time.time() + 1000
            records = list(islice(forger, NUM_RECORDS))
            keys, values = [NODES_KEY] * NUM_RECORDS, [record for _, record in records]
            expiries = [expiry_s + i for i in range(NUM_RECORDS)]
            names: list[Any] = [one.identity.node_id if i % 2 else f"{i:032x}" for i in range(NUM_RECORDS)]
            await evil.store_many(keys, values, expiries, subkeys=names)
            for directory in (first, second):
                assert await directory.read(NODES_KEY) == {one.identity.node_id: b"true"}
        await second.announce(NODES_KEY, b"heard", ttl_s=TTL_S)
        assert (await first.read(NODES_KEY))[two.identity.node_id] == b"heard"
    finally:
        await second.stop()
        await first.stop()


A = node("a", span(0, 2))


@given(
    sequences=st.lists(st.integers(0, 40), min_size=1, max_size=40),
    ways=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_an_older_record_replaces_no_newer_one_whatever_the_order_and_the_way(
    sequences: list[int], ways: list[bool]
) -> None:
    swarm = Swarm()
    for at_s, (sequence, directly) in enumerate(zip(sequences, ways, strict=False)):
        (swarm.heard if directly else swarm.found)(replace(A, sequence=sequence, num_sessions=at_s), at_s / 10)
        newest = max(sequences[: at_s + 1])
        assert len(swarm.nodes) == 1
        seen: NodeState = swarm.nodes[0]
        assert seen.sequence == newest
        assert seen.num_sessions == sequences.index(newest)  # its first word: the same number again is not news


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_a_node_that_has_gone_is_not_brought_back_by_what_it_said_before(sequences: list[int]) -> None:
    """Records are replayed by whoever has seen them; after a minute none of them is valid any more."""
    swarm, clock = Swarm(), count(1)
    swarm.heard(replace(A, sequence=5), 0.0)
    swarm.expire(NODE_TTL_S + 1)
    assert swarm.nodes == ()
    for sequence in sequences:
        swarm.found(replace(A, sequence=sequence), NODE_TTL_S + 1 + next(clock))
    assert swarm.nodes == ()
    swarm.found(replace(A, sequence=6), NODE_TTL_S + 30)
    assert len(swarm.nodes) == 1


def test_a_record_of_another_node_is_not_taken_from_who_signed_it() -> None:
    swarm = Swarm()
    discovery = Discovery(SimpleNamespace(), swarm, Roster("me"))  # type: ignore[arg-type]
    said = record_pb2.NodeRecord(node_id="a", edge_address="h:1", state="ready", sequence=7)
    discovery._found("b", said.SerializeToString())
    discovery._found("a", b"\xff")
    assert len(swarm.nodes) == 0
    discovery._found("a", said.SerializeToString())
    assert len(swarm.nodes) == 1
    assert swarm.get("a") is not None
