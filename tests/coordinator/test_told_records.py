"""Whose a node counts as: by its operator's word, and only in a record that is its own beyond doubt."""

import logging
import time
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.test_control_service import coordinator, member, until
from osai.coordinator.discovery import Discovery
from osai.coordinator.roster import Roster
from osai.coordinator.swarm import NodeState, Swarm
from osai.coordinator.text import Tokenizer
from osai.coordinator.told_records import note_operator, read_told
from osai.coordinator.view import view_node
from osai.coordinator.wire import read_node
from osai.core.directory import Directory
from osai.core.identity import Identity
from osai.core.operators import state_operator
from osai.core.records import COORDINATORS_KEY, NODES_KEY, seal
from osai.proto import control_pb2, record_pb2

NODE, STRANGER, OPERATOR = Identity.generate(), Identity.generate(), Identity.generate()
NOW_S, END_S = 1000.0, 100_000


def record(node: Identity = NODE, address: str = "h:1", sequence: int = 1, end_s: int = END_S) -> record_pb2.NodeRecord:
    """Of a node whose operator has signed for it."""
    stated = state_operator(OPERATOR, NODE.node_id, end_s)
    return record_pb2.NodeRecord(
        node_id=node.node_id,
        edge_address=address,
        sequence=sequence,
        operator=stated.public_key,
        operator_signature=stated.signature,
        operator_not_after_s=stated.not_after_s,
    )


def sealed(told: record_pb2.NodeRecord, by: Identity = NODE, key: str = NODES_KEY, expiry_s: float = 1010.0) -> bytes:
    return seal(by, key, told.SerializeToString(), expiry_s)


def read(told: record_pb2.NodeRecord, signed: bytes = b"", *, is_member: bool = False) -> NodeState:
    return read_told(told, signed, node_id=NODE.node_id, is_member=is_member, now_s=NOW_S)


def test_an_operator_counts_in_a_record_that_its_node_has_signed() -> None:
    told = record()
    for state in (read(told, sealed(told)), read(told, is_member=True), read_node(told, proven_at_s=NOW_S)):
        assert (state.operator, state.operator_flaw) == (OPERATOR.public_key, "")
        assert view_node(state, NOW_S).operator == OPERATOR.public_key.hex()


@pytest.mark.parametrize(
    ("signed", "flaw"),
    [
        (b"", "has not signed its record"),
        (b"nonsense", "can't be believed"),
        (sealed(record(), by=STRANGER), "not its signer's"),
        (sealed(record(), expiry_s=NOW_S), "expired"),
        (sealed(record(), key=COORDINATORS_KEY), "signature is wrong"),
        (seal(NODE, NODES_KEY, b"\xff\xff", 1010.0), "can't be believed"),
    ],
)
def test_who_only_says_that_it_is_the_node_counts_as_nobodys(signed: bytes, flaw: str) -> None:
    """Id, operator's key and signature are public: anybody can greet with them, and give an address of their own."""
    state = read(record(address="evil:1"), signed)
    assert (state.operator, state.address) == (b"", "evil:1")
    assert NODE.node_id in state.operator_flaw
    assert flaw in state.operator_flaw


def test_what_the_node_has_signed_goes_before_what_is_said_beside_it() -> None:
    """A stranger that repeats a node's signed record leads to that node, and nowhere else."""
    state = read(record(address="evil:1", sequence=99), sealed(record(address="true:1", sequence=2)))
    assert (state.address, state.sequence, state.operator) == ("true:1", 2, OPERATOR.public_key)


@given(changed=st.sampled_from(["operator", "operator_signature"]), at=st.integers(0, 31), bit=st.integers(0, 7))
def test_a_wrong_signature_of_the_operator_counts_for_nothing(changed: str, at: int, bit: int) -> None:
    told = record()
    value = bytearray(getattr(told, changed))
    value[at] ^= 1 << bit
    setattr(told, changed, bytes(value))
    state = read(told, sealed(told))
    assert state.operator == b""
    assert "names its operator is wrong" in state.operator_flaw


def test_an_operator_signs_for_one_node_alone() -> None:
    told = record(STRANGER)
    state = read_told(told, sealed(told, STRANGER), node_id=STRANGER.node_id, is_member=False, now_s=NOW_S)
    assert (state.node_id, state.operator) == (STRANGER.node_id, b"")
    assert "names its operator is wrong" in state.operator_flaw


def test_who_names_no_operator_has_no_flaw() -> None:
    told = record_pb2.NodeRecord(node_id=NODE.node_id, edge_address="h:1")
    for state in (read(told), read(told, sealed(told)), read(told, is_member=True)):
        assert (state.operator, state.operator_flaw) == (b"", "")


def test_a_flaw_is_logged_once_and_again_when_it_is_another(caplog: pytest.LogCaptureFixture) -> None:
    first = read(record())
    late, other = replace(first, sequence=0), replace(first, operator_flaw="another")
    for told, before, after in (
        (first, None, first), (first, first, first), (late, None, first), (other, first, other),
    ):  # fmt: skip
        note_operator(told, before, after)
    assert [entry.message for entry in caplog.records] == [
        f"node {NODE.node_id} names an operator, and has not signed its record; it counts as nobody's",
        "another; it counts as nobody's",
    ]


@pytest.mark.parametrize(
    ("end_s", "flaw"), [(int(NOW_S) - 1, "has ended"), (0, "without saying until when"), (2**40, "for longer than")]
)
def test_a_word_of_an_operator_that_has_ended_or_has_no_end_counts_for_nothing(end_s: int, flaw: str) -> None:
    told = record(end_s=end_s)
    state = read(told, sealed(told))
    assert state.operator == b""
    assert flaw in state.operator_flaw


async def test_the_control_stream_and_the_dht_believe_the_same(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    end_s = int(time.time()) + 1000

    def beat(sequence: int, *, signed: bool) -> control_pb2.NodeMessage:
        told = record(sequence=sequence, end_s=end_s)
        proof = sealed(told, expiry_s=time.time() + 30) if signed else b""
        return control_pb2.NodeMessage(heartbeat=control_pb2.Heartbeat(record=told, sealed=proof))

    caplog.set_level(logging.WARNING)
    async with coordinator(tokenizer) as it, member(it.address, NODE.node_id) as node:

        def operator(sequence: int) -> bytes | None:
            seen = it.swarm.get(NODE.node_id)
            return seen.operator if seen is not None and seen.sequence == sequence else None

        told = record(sequence=1, end_s=end_s)
        joining = control_pb2.Join(
            record=told, sealed=sealed(told, expiry_s=time.time() + 30), dtype="float32", memory_bytes=10**6
        )
        node.link.send(control_pb2.NodeMessage(join=joining))
        await until(lambda: operator(1) == OPERATOR.public_key)
        for sequence in (2, 3):
            node.link.send(beat(sequence, signed=False))
        await until(lambda: operator(3) == b"")
        node.link.send(beat(4, signed=True))
        await until(lambda: operator(4) == OPERATOR.public_key)
        assert caplog.text.count("it counts as nobody's") == 1
        swarm = Swarm()
        discovery = Discovery(cast("Directory", None), swarm, Roster("c" * 32))  # it is only told
        discovery._found(NODE.node_id, record(end_s=end_s).SerializeToString())
        assert [seen.operator for seen in swarm.nodes] == [OPERATOR.public_key]
