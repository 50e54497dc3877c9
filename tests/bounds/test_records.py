"""A thousand records that nobody could believe: none is stored, none is believed, and none hides an honest one."""

import time
from dataclasses import replace
from itertools import count, islice
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts.chaos_runs.forged_records import Forger, forge

from admission.members import Member
from coordinator.builders import node, span
from core.test_directory import LOOPBACK, TTL_S, collected, intruder, no_daemon_left
from osai.coordinator.discovery import Discovery
from osai.coordinator.roster import Roster
from osai.coordinator.swarm import NODE_TTL_S, NodeState, Swarm
from osai.core.admission import Role
from osai.core.directory import Directory
from osai.core.errors import TrustError
from osai.core.member_tls import MemberTls
from osai.core.record_guard import RecordGuard
from osai.core.records import NODES_KEY, seal, unseal
from osai.proto import record_pb2
from private.swarm_members import PrivateSwarm

__all__ = ["collected", "no_daemon_left"]

NUM_RECORDS = 1000
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*BaseSubprocessTransport:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning"),
]


def member_of(swarm: PrivateSwarm) -> tuple[Member, MemberTls]:
    """A node whose keys the test has too."""
    from osai.core.admission import Credentials, Gate

    member, now_s = Member.of(swarm.authority, Role.NODE, now_s=time.time()), time.time()
    anchor, member_id = swarm.authority.anchor, member.identity.node_id
    credentials = Credentials.read(member.leaf, member.key, anchor, role=Role.NODE, member_id=member_id, now_s=now_s)
    return member, MemberTls(credentials, Gate.opened(anchor, swarm.revoked(), now_s), swarm.clock)


def test_a_guard_and_a_reader_believe_none_of_a_thousand() -> None:
    told = forge(seed=3, count=NUM_RECORDS)
    assert told.believed == []
    assert told.num_refused == told.num_sent == NUM_RECORDS


def test_an_honest_record_is_believed_until_its_own_end_alone() -> None:
    swarm = PrivateSwarm()
    member, tls = member_of(swarm)
    expiry_s, node_id = time.time() + 1000, member.identity.node_id
    sound = seal(member.identity, NODES_KEY, b"true", expiry_s, member.leaf)
    guard = RecordGuard({b"place": NODES_KEY}, lambda data: node_id if data == b"me" else data, tls.peer_of)

    def stored(expires_s: float) -> bool:
        return guard.validate(SimpleNamespace(key=b"place", subkey=b"me", value=sound, expiration_time=expires_s))

    assert stored(expiry_s)
    assert not stored(expiry_s + 1)
    assert unseal(sound, NODES_KEY, node_id, time.time(), tls.peer_of) == b"true"
    with pytest.raises(TrustError, match="expired"):
        unseal(sound, NODES_KEY, node_id, expiry_s, tls.peer_of)


async def test_a_real_dht_keeps_none_of_a_thousand_and_the_honest_record_is_read() -> None:
    swarm = PrivateSwarm()
    (one, one_tls), (two, two_tls) = member_of(swarm), member_of(swarm)
    first = await Directory.start(one.identity, listen=LOOPBACK, tls=one_tls)
    second = await Directory.start(two.identity, listen=LOOPBACK, initial_peers=first.addresses, tls=two_tls)
    try:
        await first.announce(NODES_KEY, b"true", ttl_s=TTL_S)
        async with intruder(first.addresses) as evil:
            expiry_s = time.time() + 1000
            forger = Forger(swarm.authority, one.identity, one.leaf, expiry_s)
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
