"""The volunteers: machines that come, stay for a heavy-tailed while, and go in one of several ways."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from scripts.simulation.hosts import Host
from scripts.simulation.machine import Machine
from scripts.simulation.node import SimulatedNode
from scripts.simulation.scenario import Scenario
from scripts.simulation.surroundings import Surroundings

TAIL = 1.2  # of the Lomax distribution of stays: measured stays in volunteer networks have no finite variance
ARRIVAL_S = 6.0  # in which those of the beginning come
RETURNS = 0.6  # share of those that come after a departure which are the same machine again
FLAP_UP_S, FLAP_DOWN_S = (0.5, 9.0), (0.2, 5.0)


def stay_s(dice: Random, median_s: float) -> float:
    """How long a volunteer stays."""
    return float(median_s * ((1 - dice.random()) ** (-1 / TAIL) - 1) / (2 ** (1 / TAIL) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Volunteer:
    """A machine, and how far its wall clock is off."""

    id: str
    machine: Machine
    off_s: float
    drift: float


class Volunteers:
    """Starts and ends nodes.

    Args:
        around: network, model, log.
        scenario: what they are like, how long they stay.
        coordinators: ids that they are told of.
        dice: draws everything.

    Attributes:
        nodes: those that are up, by id.
    """

    def __init__(
        self,
        around: Surroundings,
        scenario: Scenario,
        coordinators: Sequence[str],
        dice: Random,
    ) -> None:
        self.nodes: dict[str, SimulatedNode] = {}
        self._around = around
        self._scenario = scenario
        self._coordinators = coordinators
        self._dice = dice
        self._known: dict[str, Volunteer] = {}
        self._disturbed = False
        self._flappers: frozenset[str] = frozenset()

    def begin(self) -> None:
        """All come, within some seconds."""
        for _ in range(self._scenario.num_nodes):
            self._after(self._dice.uniform(0.0, ARRIVAL_S), self._come, self._recruit())

    def disturb(self) -> None:
        """From now on they come and go."""
        self._disturbed = True
        names = sorted(self.nodes)
        self._flappers = frozenset(self._dice.sample(names, min(self._scenario.failures.flappers, len(names))))
        for name in names:
            self._stay(self.nodes[name])

    def calm(self) -> None:
        """Who is there stays; who is away comes back."""
        self._disturbed = False

    def running(self) -> list[SimulatedNode]:
        """Nodes that do something now, by id."""
        return [node for _, node in sorted(self.nodes.items()) if node.host.runs]

    def _recruit(self) -> Volunteer:
        dice, config, skew_s = self._dice, self._scenario.nodes, self._scenario.failures.clock_skew_s
        model = self._around.model
        num_layers = dice.randint(config.least_layers, config.most_layers)
        memory_bytes = num_layers * model.layer_bytes + 2 * model.outer_bytes
        lies = dice.random() < config.liars
        volunteer = Volunteer(
            id=f"n{len(self._known):04}",
            machine=Machine(
                memory_bytes=memory_bytes,
                told_bytes=memory_bytes * (2 if lies else 1),
                num_layers=num_layers,
                layer_s=config.fast_layer_s * (config.slow_layer_s / config.fast_layer_s) ** dice.random(),
                load_layer_s=config.load_layer_s,
                num_kv_tokens=config.kv_contexts * model.config.max_context,
                place=(dice.random(), dice.random()),
            ),
            off_s=dice.uniform(-skew_s, skew_s),
            drift=dice.uniform(-0.01, 0.01) if skew_s else 0.0,
        )
        self._known[volunteer.id] = volunteer
        return volunteer

    def _come(self, volunteer: Volunteer) -> None:
        around, dice = self._around, self._dice
        host = Host(
            id=volunteer.id,
            loop=around.loop,
            place=volunteer.machine.place,
            off_s=volunteer.off_s,
            drift=volunteer.drift,
        )
        around.network.add(host)
        told = list(self._coordinators)
        dice.shuffle(told)
        around.trace.note("come", host.id)
        node = SimulatedNode(
            host,
            volunteer.machine,
            around,
            told,
            Random(dice.getrandbits(64)),  # noqa: S311
            self._stopped,
        )
        self.nodes[host.id] = node
        self._around.on_change()
        if self._disturbed:
            self._stay(node)

    def _stay(self, node: SimulatedNode) -> None:
        failures = self._scenario.failures
        if node.host.id in self._flappers:
            self._after(self._dice.uniform(*FLAP_UP_S), self._go, node)
        elif failures.session_s:
            self._after(stay_s(self._dice, failures.session_s), self._go, node)

    def _go(self, node: SimulatedNode) -> None:
        if self.nodes.get(node.host.id) is not node or not self._disturbed:
            return
        failures, flaps = self._scenario.failures, node.host.id in self._flappers
        if not flaps and node.host.runs and self._dice.random() < failures.graceful:
            self._around.trace.note("leave", node.host.id)
            node.leave("its operator wants it back")
        else:
            self._die(node, with_power=flaps or self._dice.random() >= failures.power_cuts)

    def _stopped(self, node: SimulatedNode) -> None:
        if self.nodes.get(node.host.id) is node:
            self._die(node, with_power=True)

    def _die(self, node: SimulatedNode, *, with_power: bool) -> None:
        self._around.trace.note("die" if with_power else "vanish", node.host.id)
        self._around.network.kill(node.host, with_power=with_power)
        del self.nodes[node.host.id]
        self._around.on_change()
        same = self._known[node.host.id]
        if node.host.id in self._flappers:
            self._after(self._dice.uniform(*FLAP_DOWN_S), self._come, same)
        else:
            next_one = same if self._dice.random() < RETURNS else self._recruit()
            self._after(self._dice.expovariate(1 / self._scenario.failures.rejoin_s), self._come, next_one)

    def _after(self, delay_s: float, callback: Callable[..., None], *args: object) -> None:
        self._around.loop.after(delay_s, callback, *args)
