"""Sessions are closed on nodes that are away as soon as they are back, and nobody is dialled for it."""

from typing import cast

import pytest

from coordinator.builders import stage
from osai.coordinator.sessions import stage_links
from osai.coordinator.sessions.messages import write_close
from osai.coordinator.sessions.stage_links import CLOSE_S, StageLinks
from osai.core.errors import UnavailableError
from osai.core.link_pool import LinkPool
from osai.proto import edge_pb2

AWAY = stage("away", 0, 2)


class Wire:
    """Keeps what it is sent."""

    def __init__(self, *, is_dead: bool = False) -> None:
        self.is_dead = is_dead
        self.sent: list[edge_pb2.LinkMessage] = []

    def send(self, message: edge_pb2.LinkMessage) -> None:
        if self.is_dead:
            raise UnavailableError("gone")
        self.sent.append(message)


class Pool:
    """The part of a LinkPool that closing needs: it dials nobody."""

    def __init__(self) -> None:
        self.wires: dict[tuple[str, str], Wire] = {}

    def held(self, peer: str, address: str) -> Wire | None:
        return self.wires.get((peer, address))


def links() -> tuple[StageLinks, Pool]:
    pool = Pool()
    return StageLinks(cast("LinkPool", pool)), pool


def test_a_node_that_is_there_is_told_at_once() -> None:
    it, pool = links()
    wire = pool.wires["away", "away:1"] = Wire()
    it.close(AWAY, write_close(7, 2))
    assert wire.sent == [write_close(7, 2)]
    assert not it.has_pending


@pytest.mark.parametrize("is_dead", [True, False])
def test_a_node_that_comes_back_is_told_then(*, is_dead: bool) -> None:
    it, pool = links()
    if is_dead:
        pool.wires["away", "away:1"] = Wire(is_dead=True)
    it.close(AWAY, write_close(7, 2))
    it.close(AWAY, write_close(7, 3))  # of one session, the last word counts
    it.flush()
    assert it.has_pending
    wire = pool.wires["away", "away:1"] = Wire()
    it.flush()
    assert wire.sent == [write_close(7, 3)]
    assert not it.has_pending


def test_after_a_while_the_node_has_closed_it_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    it, _ = links()
    now_s = [100.0]
    monkeypatch.setattr("osai.coordinator.sessions.stage_links.time.monotonic", lambda: now_s[0])
    it.close(AWAY, write_close(7, 2))
    now_s[0] += CLOSE_S
    it.flush()
    assert not it.has_pending


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_links, "MAX_PENDING", 3)
    it, pool = links()
    for number in range(5):
        it.close(AWAY, write_close(number, 1))
    wire = pool.wires["away", "away:1"] = Wire()
    it.flush()
    assert [message.close.session for message in wire.sent] == [2, 3, 4]
