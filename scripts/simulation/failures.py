"""What goes wrong besides volunteers' coming and going: hangs, slowness, partitions, crashes of coordinators."""

from collections.abc import Callable
from random import Random

from scripts.simulation.network import Blocked
from scripts.simulation.scenario import FailureConfig
from scripts.simulation.surroundings import Surroundings
from scripts.simulation.volunteers import Volunteers

LEAST_S = 0.3  # that anything lasts
SLOWER = (10.0, 20.0)


class Failures:
    """Lets things go wrong, at random times.

    Args:
        around: network, log.
        config: how often.
        volunteers: whose nodes hang or slow down.
        crash: ends a coordinator, which is back after so many seconds.
        coordinators: their ids.
        dice: draws everything.
    """

    def __init__(
        self,
        around: Surroundings,
        config: FailureConfig,
        volunteers: Volunteers,
        crash: Callable[[str, float], None],
        coordinators: tuple[str, ...],
        dice: Random,
    ) -> None:
        self._around = around
        self._config = config
        self._volunteers = volunteers
        self._crash = crash
        self._coordinators = coordinators
        self._dice = dice
        self._disturbed = False
        self._side: frozenset[str] | None = None

    def disturb(self) -> None:
        """From now on things go wrong."""
        self._disturbed = True
        config = self._config
        for rate, happen in (
            (config.hangs, self._hang),
            (config.slowdowns, self._slow_down),
            (config.partitions, self._partition),
            (config.coordinator_crashes, self._crash_one),
        ):
            if rate:
                self._again(rate, happen)

    def calm(self) -> None:
        """Nothing goes wrong any more; the network heals."""
        self._disturbed = False
        if self._side is not None:
            self._heal(self._side)

    def side_of(self, host_id: str) -> bool:
        """On which side of the network a host is now; all are on one where it is whole."""
        return self._side is not None and host_id in self._side

    @property
    def is_partitioned(self) -> bool:
        """Whether the network has two sides now."""
        return self._side is not None

    def _again(self, rate: float, happen: Callable[[], None]) -> None:
        def go() -> None:
            if self._disturbed:
                happen()
                self._again(rate, happen)

        self._around.loop.after(self._dice.expovariate(rate / 60), go)

    def _hang(self) -> None:
        running = self._volunteers.running()
        if not running:
            return
        host = self._dice.choice(running).host
        seconds = self._dice.uniform(LEAST_S, self._config.hang_s)
        self._around.trace.note("hang", f"{host.id} {seconds:.1f}")
        self._around.network.stop(host)
        self._around.on_change()

        def wake() -> None:
            if host.alive:
                self._around.trace.note("wake", host.id)
                host.go_on()
                self._around.on_change()

        self._around.loop.after(seconds, wake)

    def _slow_down(self) -> None:
        running = self._volunteers.running()
        if not running:
            return
        node, times = self._dice.choice(running), self._dice.uniform(*SLOWER)
        self._around.trace.note("slow", f"{node.host.id} {times:.1f}")
        node.slow_down(times)
        self._around.loop.after(self._config.slow_s, node.slow_down, 1.0)

    def _partition(self) -> None:
        if self._side is not None:
            return
        hosts, share = sorted(self._around.network.hosts), self._dice.uniform(0.1, 0.5)
        side = self._side = frozenset(host for host in hosts if self._dice.random() < share)
        kind = self._dice.choice(("both", "out", "in"))
        self._around.trace.note("partition", f"{kind} {' '.join(sorted(side))}")
        self._around.network.partition(_blocked(side, kind))
        self._around.on_change()
        self._around.loop.after(self._dice.uniform(LEAST_S, self._config.partition_s), self._heal, side)

    def _heal(self, side: frozenset[str]) -> None:
        if self._side is side:
            self._side = None
            self._around.trace.note("heal", "")
            self._around.network.heal()
            self._around.on_change()

    def _crash_one(self) -> None:
        down_s = self._dice.uniform(LEAST_S, self._config.coordinator_down_s)
        self._crash(self._dice.choice(self._coordinators), down_s)


def _blocked(side: frozenset[str], kind: str) -> Blocked:
    """Nothing gets from one side to the other; or one way alone: "out" of the side, or "in"."""

    def blocked(source: str, target: str) -> bool:
        is_out, is_in = source in side and target not in side, target in side and source not in side
        return (is_out and kind != "in") or (is_in and kind != "out")

    return blocked
