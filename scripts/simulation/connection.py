"""One connection between two simulated hosts: two ordered streams, and how either side learns of its end."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scripts.simulation.hosts import Host

from osai.core.rpc import Pings

if TYPE_CHECKING:
    from scripts.simulation.network import Network


def _ignored(*_: object) -> None:
    """Nobody listens yet."""


class End:
    """One side of a connection.

    Attributes:
        host: of this side.
        on_message: gets what the other side sends.
        on_closed: called once, when this side knows that the connection is over.
        last_s: when its last message arrives.
    """

    __slots__ = ("_connection", "_unsent", "host", "last_s", "on_closed", "on_message", "open", "other")

    def __init__(self, connection: "Connection", host: Host) -> None:
        self.host = host
        self.other: End
        self.open = True
        self.on_message: Callable[[Any], object] = _ignored
        self.on_closed: Callable[[], object] = _ignored
        self._connection = connection
        self.last_s = 0.0
        self._unsent: list[object] = []

    @property
    def peer(self) -> str:
        """The other side's host."""
        return self.other.host.id

    def send(self, message: object) -> None:
        """Send a message; nothing where the connection is over."""
        if not (self.open and self.host.alive):
            return
        network, me, peer = self._connection.network, self.host.id, self.other.host.id
        if network.blocks(me, peer):
            self._unsent.append(message)
            return
        at_s = max(network.loop.now + network.trip_s(me, peer), self.last_s)
        self.last_s = at_s
        network.loop.call_at(at_s, self.other._arrived, message)  # noqa: SLF001 - its twin

    def close(self) -> None:
        """End the connection from this side."""
        if self.open:
            self.open = False
            self._connection.tell(self.other)

    def lose(self) -> None:
        """This side finds out that it is over, once it has read what came before."""
        if self.open:
            self.close()
            self.on_closed()

    def closed_by_peer(self) -> None:
        """The other side's last word has come."""
        if self.open:
            self.open = False
            self._connection.forget()
            self.on_closed()

    def resend(self) -> None:
        """What could not be sent is sent again."""
        unsent, self._unsent = self._unsent, []
        for message in unsent:
            self.send(message)

    def _arrived(self, message: object) -> None:
        if self.host.alive:
            self.host.happen(self._take, message)

    def _take(self, message: object) -> None:
        if self.open:
            self.on_message(message)


class Connection:
    """Two ends; `pings` tell each that the other is gone without a word."""

    def __init__(self, network: "Network", dialler: Host, server: Host, pings: Pings) -> None:
        self.network = network
        self.pings = pings
        self.dialler, self.server = End(self, dialler), End(self, server)
        self.dialler.other, self.server.other = self.server, self.dialler

    def tell(self, end: End) -> None:
        """The other side has ended it; `end` hears of that, unless nothing gets through: then its pings tell."""
        network = self.network
        if self.forget() or network.blocks(end.peer, end.host.id) or not end.other.host.has_power:
            return
        at_s = max(network.loop.now + network.trip_s(end.peer, end.host.id), end.other.last_s)
        network.loop.call_at(at_s, end.host.happen, end.closed_by_peer)

    def cut(self, host: Host) -> None:
        """The kernel of a dead process closes its side."""
        for end in (self.dialler, self.server):
            if end.host is host:
                end.close()

    def ping_lost(self, end: End, since_s: float) -> None:
        """A ping that was sent after `since_s` should have been answered; `end` gives up if it can't have been."""
        one, other = end.host, end.other.host
        if not end.open or one.hung or self.network.loop.now <= since_s:
            return
        if not one.alive:
            end.open = False
            self.forget()
        elif not self.network.is_reachable(one.id, other.id) or not other.runs or not end.other.open:
            end.lose()

    def healed(self) -> None:
        """The way is free again."""
        for end in (self.dialler, self.server):
            if end.open:
                end.resend()
            elif end.other.open:
                self.tell(end.other)

    def forget(self) -> bool:
        """Whether both sides know that it is over; then nobody need remember it."""
        over = not (self.dialler.open or self.server.open)
        if over:
            self.network.forget(self)
        return over
