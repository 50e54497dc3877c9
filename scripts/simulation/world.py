"""One simulated swarm, from its first node to the end of its last request."""

from functools import partial
from random import Random
from unittest import mock

from scripts.simulation.client import Request, SimulatedClient
from scripts.simulation.coordinator import SimulatedCoordinator
from scripts.simulation.coverage import Coverage, ready_spans
from scripts.simulation.directory import SimulatedDirectory
from scripts.simulation.edge import simulated_edges
from scripts.simulation.failures import Failures
from scripts.simulation.hosts import Host
from scripts.simulation.loop import VirtualLoop, simulated_time
from scripts.simulation.model import SimulatedModel
from scripts.simulation.network import Network
from scripts.simulation.node import SimulatedNode
from scripts.simulation.node_record import NodeRecord
from scripts.simulation.outcome import Outcome, broken_promises, figures, times_to_first, verdict
from scripts.simulation.reach import Reach
from scripts.simulation.scenario import Scenario
from scripts.simulation.surroundings import Surroundings
from scripts.simulation.trace import Trace
from scripts.simulation.volunteers import Volunteers

from osai.coordinator.placing import arrange
from osai.coordinator.swarm import joined, replicas

SAMPLE_S = 1.0  # of the curves
LAST_WORDS_S = 1.0


def simulate(scenario: Scenario, seed: int, *, keep_trace: bool = False) -> Outcome:
    """Run one scenario with one seed; equal arguments give equal outcomes."""
    loop = VirtualLoop()  # type: ignore[abstract] # what nothing here calls is left out
    with simulated_time(loop, _dice(seed, "production")):
        world = World(loop, scenario, seed, keep_trace=keep_trace)
        kicks = mock.patch.object(arrange, "NUM_KICKS", scenario.num_kicks)
        with simulated_edges(world.network), kicks:
            return world.run()


def _dice(seed: int, what: str) -> Random:
    return Random(f"{seed} {what}")  # noqa: S311 - no secret


class World:
    """Everything in one run.

    Args:
        loop: its time.
        scenario: what there is.
        seed: of all that is drawn.
        keep_trace: keep the log's lines.
    """

    def __init__(self, loop: VirtualLoop, scenario: Scenario, seed: int, *, keep_trace: bool) -> None:
        self._loop = loop
        self._scenario = scenario
        self._seed = seed
        self.network = Network(loop, scenario.links, _dice(seed, "network"))
        self.trace = Trace(lambda: loop.now, keep=keep_trace)
        nodes: SimulatedDirectory[NodeRecord] = SimulatedDirectory(self.network, _dice(seed, "nodes"))
        records: SimulatedDirectory[str] = SimulatedDirectory(self.network, _dice(seed, "coordinators"))
        self.around = Surroundings(
            loop=loop,
            network=self.network,
            nodes=nodes,
            coordinators=records,
            model=SimulatedModel(scenario.model),
            trace=self.trace,
            on_change=self._changed,
            on_withdraw=self._withdrawn,
        )
        self._names = tuple(f"c{index}" for index in range(scenario.num_coordinators))
        self._coordinators: dict[str, SimulatedCoordinator] = {}
        self._dice = _dice(seed, "world")
        self._coverage = Coverage(scenario.model.num_layers, lambda: loop.now)
        self._reach = Reach(self.network, lambda: loop.now)
        self._look_due = False
        self._clients = tuple(f"u{index}" for index in range(scenario.num_clients))
        self._requests: list[Request] = []
        self._series: list[tuple[float, int, int]] = []
        self._watching = False
        self._num_moves = self._num_harmful = 0
        self.volunteers = Volunteers(self.around, scenario, self._names, _dice(seed, "volunteers"))
        failures = _dice(seed, "failures")
        self.failures = Failures(self.around, scenario.failures, self.volunteers, self._crash, self._names, failures)

    def run(self) -> Outcome:
        """Let all happen."""
        scenario, loop = self._scenario, self._loop
        for name in self._names:
            self._start(name)
        self.volunteers.begin()
        clients = [self._client(name) for name in self._clients]
        loop.run_until(scenario.settle_s)
        until_s = loop.now + 60 * scenario.minutes
        self._watching = True
        self._sample()
        self.volunteers.disturb()
        self.failures.disturb()
        tasks = [loop.create_task(client.run(until_s=until_s, think_s=scenario.think_s)) for client in clients]
        loop.run_until(until_s)
        self.volunteers.calm()
        self.failures.calm()
        while loop.now < until_s + scenario.most_end_s and not all(task.done() for task in tasks):
            loop.run_until(loop.now + SAMPLE_S)
        self._watching = False
        self._coverage.end()
        outcome = self._outcome(until_s - scenario.settle_s)
        for task in tasks:
            task.cancel()
        for coordinator in self._coordinators.values():
            coordinator.kill()
        loop.run_until(loop.now + LAST_WORDS_S)
        return outcome

    def _client(self, name: str) -> SimulatedClient:
        dice = _dice(self._seed, f"client {name}")
        host = Host(id=name, loop=self._loop, place=(dice.random(), dice.random()))
        self.network.add(host)
        names = list(self._names)
        dice.shuffle(names)
        return SimulatedClient(host, self.around, tuple(names), dice, self._requests)

    def _start(self, name: str) -> None:
        place = _dice(self._seed, f"place {name}")
        skew_s = self._scenario.failures.clock_skew_s
        host = Host(
            id=name,
            loop=self._loop,
            place=(place.random(), place.random()),
            off_s=place.uniform(-skew_s, skew_s),
        )
        self.network.add(host)
        self.trace.note("start", name)
        dice = Random(self._dice.getrandbits(64))  # noqa: S311
        standby = self._scenario.standby
        self._coordinators[name] = SimulatedCoordinator(host, self.around, dice, standby=standby)
        self._changed()

    def _crash(self, name: str, down_s: float) -> None:
        coordinator = self._coordinators.pop(name, None)
        if coordinator is None:
            return  # it is down
        self.trace.note("crash", f"{name} {down_s:.1f}")
        coordinator.kill()
        self._loop.after(down_s, self._start, name)
        self._changed()

    def _changed(self) -> None:
        """Something that coverage depends on has changed; looked at once all has happened that happens now."""
        if not self._look_due:
            self._look_due = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._look_due = False
        if self._watching:
            coordinators = [each.host for each in self._coordinators.values()]
            self._reach.look(self._clients, coordinators)
            self._coverage.look(
                self.volunteers.running(),
                coordinators,
                self.failures.side_of,
                partitioned=self.failures.is_partitioned,
            )

    def _sample(self) -> None:
        if not self._watching:
            return
        self._look()
        running = self.volunteers.running()
        ready = [layers for node in running for layers in ready_spans(node)]
        counts = replicas(ready, self._scenario.model.num_layers)
        self._series.append((self._loop.now, len(running), min(counts)))
        self._loop.after(SAMPLE_S, self._sample)

    def _withdrawn(self, node: SimulatedNode) -> None:
        """A node gives up its span for another one: that alone must not take the model away."""
        self._num_moves += self._watching
        num_layers = self._scenario.model.num_layers
        spans = [layers for each in self.volunteers.running() for layers in ready_spans(each)]
        with_it = [*spans, *(span.layers for span in node.spans)]
        if self._watching and joined(with_it, num_layers) and not joined(spans, num_layers):
            self._num_harmful += 1
            self.trace.note("harmful", node.host.id)

    def _outcome(self, disturbed_s: float) -> Outcome:
        requests, gaps, loop = self._requests, self._coverage.gaps, self._loop
        verdicts = [verdict(each, (*self._coverage.news, *self._reach.alone(each.client))) for each in self._requests]
        told = partial(figures, num_moves=self._num_moves, num_harmful_moves=self._num_harmful, now_s=loop.now)
        return Outcome(
            seed=self._seed,
            figures=told(requests, verdicts, gaps, disturbed_s=disturbed_s, events=loop.num_events),
            broken=broken_promises(requests, verdicts, gaps, loop.errors),
            digest=self.trace.digest,
            counts=dict(sorted(self.trace.counts.items())),
            lines=tuple(self.trace.lines or ()),
            series=tuple(self._series),
            gaps=tuple((gap.begun_s, gap.ended_s or loop.now, gap.capacity_s) for gap in gaps),
            tokens_s=tuple(at_s for request in requests for at_s in request.token_times_s),
            ttft_s=tuple(times_to_first(requests)),
            pauses_s=tuple(pause_s for request in requests for pause_s in request.pauses_s),
        )
