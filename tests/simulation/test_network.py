"""The simulated network dials as TCP does."""

from functools import partial
from random import Random

import pytest
from scripts.simulation.connection import End
from scripts.simulation.hosts import Host
from scripts.simulation.loop import VirtualLoop
from scripts.simulation.network import DIAL_TIMEOUT_S, Network
from scripts.simulation.scenario import LinkConfig


def dialled(heals_s: float | None, *, kills: bool = False) -> tuple[float, bool]:
    """When a dial into a cut link came to its end, and whether it got through."""
    loop = VirtualLoop()  # type: ignore[abstract]
    network = Network(loop, LinkConfig(), Random(0))
    client, server = Host("u", loop), Host("c", loop)
    for host in (client, server):
        network.add(host)
    network.listen(server, "client", lambda _: None)
    network.partition(lambda source, _: source == "c")
    ends: list[tuple[float, End | None]] = []
    network.dial(client, "c", "client", lambda end: ends.append((loop.now, end)))
    if heals_s is not None:
        loop.call_later(heals_s, network.heal)
    if kills:
        loop.call_later(0.5, partial(network.kill, server, with_power=True))
    loop.run_until(10.0)
    ((ended_s, end),) = ends
    return ended_s, end is not None


@pytest.mark.parametrize(("heals_s", "at_s"), [(0.9, 1.0), (1.1, 3.0), (2.9, 3.0)])
def test_a_dial_into_a_cut_link_gets_through_once_that_is_whole(heals_s: float, at_s: float) -> None:
    """Seed 6957 lost a request by dials that were never sent again, as the kernel's are."""
    ended_s, is_there = dialled(heals_s)
    assert is_there
    assert at_s < ended_s < at_s + 0.1


@pytest.mark.parametrize("heals_s", [None, 3.5])
def test_a_dial_that_nobody_answers_ends_at_its_deadline(heals_s: float | None) -> None:
    ended_s, is_there = dialled(heals_s)
    assert not is_there
    assert ended_s == pytest.approx(DIAL_TIMEOUT_S)


def test_who_was_killed_meanwhile_refuses() -> None:
    ended_s, is_there = dialled(0.9, kills=True)
    assert not is_there
    assert 1.0 < ended_s < 1.1
