"""Whom a node probes, when, and what it makes of the echoes."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from random import Random

import pytest

from osai.core.errors import UnavailableError
from osai.core.layers import LayerRange
from osai.node import delay_probes
from osai.node.delay_probes import DelayProbes, read_neighbour
from osai.node.delays import (
    ANSWER_S,
    MAX_PEERS,
    NUM_PROBES,
    ROUND_S,
    Delays,
    HostedLayers,
    Neighbour,
    successors,
)
from osai.node.engine.step_load import KEPT_S, StepMeter
from osai.node.membership import SpanStatus
from osai.node.record import NodeFacts, write_record, write_span
from osai.node.stages.stage import Peer
from osai.proto import record_pb2

MODEL, DIGEST = "me/small", b"d" * 32


def peer(name: str) -> Peer:
    return Peer(node_id=name, address=f"{name}:1")


def hosted(start: int, end: int, model_id: str = MODEL, digest: bytes = DIGEST) -> HostedLayers:
    return HostedLayers(model_id=model_id, manifest_digest=digest, layers=LayerRange(start, end))


def neighbour(name: str, *spans: HostedLayers) -> Neighbour:
    return Neighbour(peer=peer(name), spans=spans)


def peers(*names: str) -> dict[str, Peer]:
    return {name: peer(name) for name in names}


OTHERS = [
    neighbour("head", hosted(0, 2)),
    neighbour("middle", hosted(2, 4)),
    neighbour("tail", hosted(4, 6)),
    neighbour("whole", hosted(0, 6)),
    neighbour("rest", hosted(2, 6)),
    neighbour("other", hosted(2, 6, "me/other")),
    neighbour("stale", hosted(2, 6, digest=b"s" * 32)),
]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 2, {"middle", "rest"}),
        (2, 4, {"tail"}),
        (4, 6, {"head"}),
        (0, 6, set()),  # a ring of its own
        (1, 3, set()),
    ],
)
def test_successors_begin_where_a_span_ends_and_heads_follow_tails(start: int, end: int, expected: set[str]) -> None:
    found = successors([hosted(start, end)], OTHERS)
    assert set(found) == expected
    assert all(found[name] == peer(name) for name in expected)


def test_a_node_of_several_models_has_successors_in_each() -> None:
    mine = [hosted(0, 2), hosted(0, 2, "me/other")]
    assert set(successors(mine, OTHERS)) == {"middle", "rest", "other"}


def echo(delays: Delays, name: str, round_trips: Sequence[float], now_s: float) -> None:
    """A whole round, each echo after its time."""
    for round_trip_s in round_trips:
        now_s += round_trip_s
        delays.echoed(name, round_trip_s, now_s)


def test_half_of_the_least_of_the_last_round_trips_is_the_delay() -> None:
    delays = Delays(Random(1))
    delays.found(peers("a"), 0.0)
    assert delays.due(0.0) == [peer("a")]
    assert delays.due(0.1) == []
    assert delays.echoed("a", 0.5, 0.5) == peer("a")  # it had to dial: again at once
    assert delays.estimates() == {}
    assert delays.echoed("a", 0.02, 0.6) == peer("a")
    assert delays.echoed("a", 0.03, 0.7) is None
    assert delays.estimates() == {"a": 0.01}
    assert delays.due(0.7 + 0.79 * ROUND_S) == []
    now_s = 0.7
    for _ in range(2):  # the way has become longer: after two rounds that is believed
        now_s += 1.2 * ROUND_S
        assert delays.due(now_s) == [peer("a")]
        echo(delays, "a", [0.2] * NUM_PROBES, now_s)
    assert delays.estimates() == {"a": 0.1}


def test_a_peer_that_does_not_answer_is_forgotten_and_asked_ever_more_seldom() -> None:
    delays = Delays(Random(1))
    delays.found(peers("a"), 0.0)
    delays.due(0.0)
    echo(delays, "a", [0.02] * NUM_PROBES, 0.0)
    asked = [float(now_s) for now_s in range(3, 1000) if delays.due(float(now_s))]
    assert delays.estimates() == {}
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert gaps[0] > ROUND_S
    assert gaps[3] > 4 * ROUND_S
    assert len(asked) < 10
    later_s = next(float(now_s) for now_s in range(1000, 2000) if delays.due(float(now_s)))
    echo(delays, "a", [0.02] * NUM_PROBES, later_s)
    assert delays.estimates() == {"a": 0.01}


def test_echoes_that_nobody_asked_for_count_for_nothing() -> None:
    delays = Delays(Random(1))
    delays.found(peers("a"), 0.0)
    for now_s in (0.1, 0.2):
        assert delays.echoed("a", 0.02, now_s) is None
    delays.due(1.0)
    for round_trip_s in (-0.1, ANSWER_S + 1, float("nan")):
        assert delays.echoed("a", round_trip_s, 1.1) is None
    assert delays.echoed("stranger", 0.02, 1.1) is None
    assert delays.estimates() == {}


def test_so_many_peers_at_most_and_those_that_stay_are_kept() -> None:
    delays = Delays(Random(1))
    everybody = [f"n{i}" for i in range(50)]
    delays.found(peers(*everybody), 0.0)
    first = {asked.node_id for asked in delays.due(0.0)}
    assert len(first) == MAX_PEERS
    assert first != set(everybody[:MAX_PEERS])  # by chance: else all would know the same ones
    gone = sorted(first)[:3]
    delays.found(peers(*(set(everybody) - set(gone))), 1.0)
    joined = {asked.node_id for asked in delays.due(1.0)}
    assert len(joined) == 3
    assert not joined & first


def test_a_peer_that_has_moved_is_measured_anew() -> None:
    delays = Delays(Random(1))
    delays.found(peers("a"), 0.0)
    delays.due(0.0)
    echo(delays, "a", [0.02] * NUM_PROBES, 0.0)
    delays.found({"a": Peer(node_id="a", address="elsewhere:1")}, 1.0)
    assert delays.estimates() == {}
    assert [asked.address for asked in delays.due(1.0)] == ["elsewhere:1"]


def record(name: str, start: int, end: int, state: str = "ready", version: int = 2) -> bytes:
    facts = NodeFacts(node_id=name, edge_address=f"{name}:1", name="", device="", memory_bytes=1, started_at_s=0.0)
    written = write_record(facts, state, [write_span(status(start, end), 9)], num_sessions=0, sequence=1)
    written.protocol_version = version
    return written.SerializeToString()


def status(start: int, end: int, state: str = "ready") -> SpanStatus:
    return SpanStatus(model_id=MODEL, layers=LayerRange(start, end), state=state, manifest_digest=DIGEST)


def test_who_can_be_no_successor_is_not_read() -> None:
    assert read_neighbour("a", record("a", 0, 2)) == neighbour("a", hosted(0, 2))
    assert read_neighbour("b", record("a", 0, 2)) is None  # of somebody else
    assert read_neighbour("a", record("a", 0, 2, state="draining")) is None
    assert read_neighbour("a", record("a", 0, 2, version=1)) is None  # it would log each probe, and return none
    assert read_neighbour("a", b"\xff") is None
    broken = record_pb2.NodeRecord(node_id="a", edge_address="a:1", protocol_version=2)
    broken.spans.add(model_id=MODEL, state="ready")  # layers 0:0
    assert read_neighbour("a", broken.SerializeToString()) is None


class FakeRing:
    """Sends each probe back after 1 ms, but for those to `deaf`."""

    def __init__(self, deaf: str) -> None:
        self._deaf = deaf
        self.asked: list[str] = []
        self.probes: DelayProbes | None = None
        self.measured = asyncio.Event()

    def probe(self, peer: Peer) -> None:
        self.asked.append(peer.node_id)
        if peer.node_id == self._deaf:
            raise UnavailableError("this member is shutting down")
        sent_s = time.monotonic()
        asyncio.get_running_loop().call_later(0.001, self._back, peer.node_id, sent_s)

    def _back(self, name: str, sent_s: float) -> None:
        if self.probes is not None:
            self.probes.echoed(name, time.monotonic() - sent_s)
            if self.asked.count(name) == NUM_PROBES and len(self.probes.estimates) > 0:
                self.measured.set()


class FakeDirectory:
    def __init__(self, payloads: Mapping[str, bytes]) -> None:
        self._payloads = payloads
        self.num_reads = 0

    async def read(self, key: str) -> Mapping[str, bytes]:
        self.num_reads += 1
        if self.num_reads == 1 and key:
            raise UnavailableError("the DHT lookup did not end")
        return self._payloads


async def test_a_node_measures_the_peers_that_the_directory_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delay_probes, "TICK_S", 0.005)
    monkeypatch.setattr(delay_probes, "LOOK_S", 0.02)
    monkeypatch.setattr(delay_probes, "FIRST_LOOK_S", 0.01)
    monkeypatch.setattr(delay_probes, "LOOK_S_PER_RECORD", 0.0)
    ring = FakeRing(deaf="tail")
    records = {"me": record("me", 0, 2), "a": record("a", 2, 4), "b": record("b", 4, 6), "tail": record("tail", 2, 6)}
    directory = FakeDirectory(records)
    probes = DelayProbes("me", ring, lambda: [status(0, 2)], lambda: directory, Random(1))
    ring.probes = probes
    running = asyncio.create_task(probes.run())
    async with asyncio.timeout(5):
        await ring.measured.wait()
    running.cancel()
    assert list(probes.estimates) == ["a"]
    assert 0.0005 <= probes.estimates["a"] < 0.1
    assert sorted(ring.asked) == ["a"] * NUM_PROBES + ["tail"]


async def test_a_node_without_a_ready_span_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delay_probes, "TICK_S", 0.001)
    directory = FakeDirectory({})
    probes = DelayProbes("me", FakeRing(deaf=""), lambda: [status(0, 2, "loading")], lambda: directory, Random(1))
    running = asyncio.create_task(probes.run())
    await asyncio.sleep(0.03)
    running.cancel()
    assert directory.num_reads == 0


def test_a_record_tells_delays_and_load() -> None:
    meter = StepMeter()
    meter.begun(1.0)
    meter.ended(1.5, is_decode=True)
    meter.begun(2.0)
    facts = NodeFacts(node_id="a", edge_address="a:1", name="", device="", memory_bytes=1, started_at_s=0.0)
    span = write_span(status(0, 2), 9, meter.load(2.25, 3))
    written = write_record(facts, "ready", [span], num_sessions=0, sequence=1, delays={"b": 0.004})
    assert [(delay.node_id, delay.delay_s) for delay in written.delays] == [("b", 0.004)]
    told = written.spans[0]
    assert (told.recent_step_s, told.step_in_hand_s, told.num_waiting_rows) == (0.5, 0.25, 3)


def test_recent_steps_are_decode_steps_of_late() -> None:
    meter = StepMeter()
    assert meter.load(0.0, 0).recent_step_s == 0.0
    for begun_s, seconds, is_decode in ((0.0, 0.1, True), (1.0, 5.0, False), (10.0, 0.3, True)):
        meter.begun(begun_s)
        meter.ended(begun_s + seconds, is_decode=is_decode)
    assert meter.load(11.0, 0).recent_step_s == pytest.approx(0.2)
    assert meter.load(11.0, 0).step_in_hand_s == 0.0
    assert meter.load(KEPT_S + 5.0, 0).recent_step_s == pytest.approx(0.3)
    assert meter.load(KEPT_S + 50.0, 0).recent_step_s == 0.0
