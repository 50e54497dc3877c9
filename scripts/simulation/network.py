"""The simulated network: delays, loss, partitions, and connections that break as HTTP/2's do."""

from collections.abc import Callable
from dataclasses import dataclass
from math import dist
from random import Random

from scripts.simulation.connection import Connection, End
from scripts.simulation.hosts import Host
from scripts.simulation.loop import VirtualLoop
from scripts.simulation.scenario import LinkConfig

from osai.core.rpc import PATIENT, WATCHFUL

DIAL_TIMEOUT_S = 5.0  # as osai.core.outbox.LinkConfig's greeting
SYN_AGAIN_S = 1.0  # after which a SYN that nobody answered is sent once more, and after twice as long again (RFC 6298)
EDGE = "edge"

Accept = Callable[[End], None]
Blocked = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dial:
    """A connection that `host` wants. `on_dialled` gets this side's end, or None where nobody answers by `end_s`."""

    host: Host
    target: str
    service: str
    on_dialled: Callable[[End | None], None]
    end_s: float

    def give_up(self, after_s: float) -> None:
        self.host.after(after_s, self.on_dialled, None)


class Network:
    """Hosts by id, and the connections between them.

    Args:
        loop: its time.
        config: delays and loss.
        dice: draws jitter and losses.
    """

    def __init__(self, loop: VirtualLoop, config: LinkConfig, dice: Random) -> None:
        self.loop = loop
        self.hosts: dict[str, Host] = {}
        self._config = config
        self._dice = dice
        self._services: dict[tuple[str, str], Accept] = {}
        self._open: dict[str, dict[Connection, None]] = {}
        self._blocked: Blocked | None = None
        self._blocked_s = 0.0
        self._delays: dict[tuple[str, str], float] = {}

    def add(self, host: Host) -> None:
        """A process starts; it takes the place of a former one of its id."""
        former = self.hosts.get(host.id)
        if former is not None and former.place != host.place:
            self._delays = {key: value for key, value in self._delays.items() if host.id not in key}
        self.hosts[host.id] = host
        self._open[host.id] = {}
        self._services = {key: accept for key, accept in self._services.items() if key[0] != host.id}

    def listen(self, host: Host, service: str, accept: Accept) -> None:
        """Serve: `accept` gets the end of each connection that is made."""
        self._services[host.id, service] = accept

    def delay_s(self, source: str, target: str) -> float:
        """One way, without jitter."""
        known = self._delays.get((source, target))
        if known is None:
            far = dist(self.hosts[source].place, self.hosts[target].place)
            known = self._delays[source, target] = self._config.near_s + self._config.far_s * far
        return known

    def trip_s(self, source: str, target: str) -> float:
        """What one message takes, losses included."""
        config, base_s = self._config, self.delay_s(source, target)
        taken_s = base_s * (1 + config.jitter * self._dice.random())
        lost_s = max(config.retransmit_s, 2 * base_s)
        while config.loss and self._dice.random() < config.loss:
            taken_s += lost_s
            lost_s *= 2
        return taken_s

    def blocks(self, source: str, target: str) -> bool:
        """Whether nothing gets from one host to another now."""
        return self._blocked is not None and self._blocked(source, target)

    @property
    def is_whole(self) -> bool:
        """Whether everything gets through."""
        return self._blocked is None

    def is_reachable(self, one: str, other: str) -> bool:
        """Whether two hosts can speak with each other."""
        return not (self.blocks(one, other) or self.blocks(other, one))

    def blocked_since(self, source: str, target: str) -> float | None:
        """Since when nothing gets through; None if it does."""
        return self._blocked_s if self.blocks(source, target) else None

    def partition(self, blocked: Blocked) -> None:
        """From now on nothing gets through where `blocked` says so."""
        self._blocked, self._blocked_s = blocked, self.loop.now
        for connections in list(self._open.values()):
            for connection in list(connections):
                if not self.is_reachable(connection.dialler.host.id, connection.server.host.id):
                    self._check(connection)

    def heal(self) -> None:
        """Everything gets through again; what was sent meanwhile on connections that still live is sent again."""
        self._blocked = None
        for connections in list(self._open.values()):
            for connection in list(connections):
                connection.healed()

    def dial(self, host: Host, target: str, service: str, on_dialled: Callable[[End | None], None]) -> None:
        """Connect; `on_dialled` gets this side's end, or None where nobody answers."""
        end_s = self.loop.now + DIAL_TIMEOUT_S
        self._knock(_Dial(host=host, target=target, service=service, on_dialled=on_dialled, end_s=end_s), SYN_AGAIN_S)

    def _knock(self, dial: _Dial, again_s: float) -> None:
        host, target = dial.host, dial.target
        known = self.hosts.get(target)
        if known is None or not known.has_power or known.hung or not self.is_reachable(host.id, target):
            self._knock_again(dial, again_s)
            return
        round_trip_s = self.trip_s(host.id, target) + self.trip_s(target, host.id)
        if not known.alive or (target, dial.service) not in self._services:
            dial.give_up(round_trip_s)  # refused
            return
        self.loop.call_later(1.5 * round_trip_s, self._arrive, dial, known, again_s)

    def _knock_again(self, dial: _Dial, again_s: float) -> None:
        if self.loop.now + again_s < dial.end_s:
            self.loop.call_later(again_s, self._knock, dial, 2 * again_s)
        else:
            dial.give_up(max(0.0, dial.end_s - self.loop.now))

    def kill(self, host: Host, *, with_power: bool) -> None:
        """A process dies; the kernel closes its connections, unless the whole machine has gone."""
        host.kill()
        host.has_power = with_power
        for connection in list(self._open.get(host.id, ())):
            if with_power:
                connection.cut(host)
            if not with_power or self._blocked is not None:
                self._check(connection)

    def stop(self, host: Host) -> None:
        """A process is stopped: its peers' pings are not answered."""
        host.stop()
        for connection in list(self._open.get(host.id, ())):
            self._check(connection)

    def forget(self, connection: Connection) -> None:
        """Both ends are closed."""
        for end in (connection.dialler, connection.server):
            self._open[end.host.id].pop(connection, None)

    def _arrive(self, dial: _Dial, target: Host, again_s: float) -> None:
        host, service = dial.host, dial.service
        if not target.runs or not host.alive or not self.is_reachable(host.id, target.id):
            self._knock_again(dial, again_s)
            return
        connection = Connection(self, host, target, WATCHFUL if service == EDGE else PATIENT)
        self._open[host.id][connection] = None
        self._open[target.id][connection] = None
        self._services[target.id, service](connection.server)
        host.happen(dial.on_dialled, connection.dialler)
        if host.hung:
            self._check(connection)

    def _check(self, connection: Connection) -> None:
        """Something is wrong with it, perhaps: pings go out every interval, and each is given its timeout."""
        pings = connection.pings
        for end in (connection.dialler, connection.server):
            wait_s = (pings.timeout_ms + pings.interval_ms * self._dice.random()) / 1000
            self.loop.call_later(wait_s, connection.ping_lost, end, self.loop.now)
