"""A simulated node: the thinnest shell around production's Membership, as osai.node.process is."""

from collections.abc import Callable, Sequence
from itertools import count
from random import Random

from scripts.simulation.control import Heartbeat, Joined, Leaving, Refusal, Welcomed
from scripts.simulation.edge import address_of
from scripts.simulation.engine import SimulatedEngine
from scripts.simulation.hosts import Host
from scripts.simulation.loop import EPOCH_S
from scripts.simulation.machine import Machine
from scripts.simulation.model import DTYPE, MODEL
from scripts.simulation.node_control import NodeControl, Told
from scripts.simulation.node_delays import NodeDelays
from scripts.simulation.node_record import node_record, span_state
from scripts.simulation.ring import SimulatedRing
from scripts.simulation.surroundings import Surroundings

from osai.coordinator.swarm import NodeState
from osai.core.errors import AssignmentError, OsaiError, ResourceExhaustedError, UnavailableError
from osai.core.protocol import PROTOCOL_VERSION
from osai.node.membership import (
    Action,
    Announce,
    Assigned,
    Load,
    Membership,
    MembershipConfig,
    Reconnect,
    SendHeartbeat,
    SendJoin,
    SendLeave,
    SpanStatus,
    Stop,
    Withdraw,
)
from osai.node.stages.journal import Journal
from osai.node.stages.stage import HostedSpan, Peer

TICK_S = 1.0  # of an idle node; heartbeats are a multiple of it
BUSY_TICK_S = 0.2  # of the real one, where something may be due
JOURNAL_BYTES = 2**20


class SimulatedNode:
    """One process of a node, from its start to its end.

    Args:
        host: the process.
        machine: it runs on.
        around: network, DHT, model.
        coordinators: ids of those that it was told of.
        dice: for whatever it draws.
        on_stopped: called when it has left by itself.
    """

    def __init__(
        self,
        host: Host,
        machine: Machine,
        around: Surroundings,
        coordinators: Sequence[str],
        dice: Random,
        on_stopped: Callable[["SimulatedNode"], None],
    ) -> None:
        self.host = host
        self.machine = machine
        self._around = around
        self._dice = dice
        self._on_stopped = on_stopped
        self._membership = Membership(MembershipConfig(), num_wished=1, now_s=host.now_s())
        self.ring = SimulatedRing(
            Peer(node_id=host.id, address=address_of(host.id)),
            host,
            around.network,
            Journal(JOURNAL_BYTES),
            self._load_changed,
        )
        self._control = NodeControl(
            host,
            around,
            coordinators,
            lambda: self._perform(self._membership.connected()),
            self._received,
            self._lost,
        )
        self._started_at_s = EPOCH_S + host.wall_s()
        self._sequence = count(int(self._started_at_s * 1000))
        self._delays = NodeDelays(host, around, lambda: self.spans, dice)
        self._busy = False
        self._slower = 1.0
        host.after(0.0, self._control.hold)
        host.after(dice.uniform(0, TICK_S), self._tick)

    @property
    def spans(self) -> tuple[SpanStatus, ...]:
        """What it hosts, and how far it is with it."""
        return self._membership.spans

    @property
    def is_draining(self) -> bool:
        """Whether it is about to leave."""
        return self._membership.is_draining

    def leave(self, reason: str) -> None:
        """Hand over what runs, and go."""
        self._perform(self._membership.drain(reason, self.host.now_s()))
        self._load_changed()
        self._around.on_change()

    def slow_down(self, times: float) -> None:
        """Be so many times slower than usual."""
        self._slower = times
        if self.ring.engine is not None:
            self.ring.engine.slower = times

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case SendJoin():
                    self._control.send(Joined(self._record(), self.machine.told_bytes, DTYPE))
                case SendHeartbeat():
                    self._control.send(Heartbeat(self._record()))
                case SendLeave():
                    self._control.send(Leaving(action.reason))
                case Announce():
                    ttl_s = MembershipConfig().record_ttl_s
                    self._around.nodes.announce(self.host, node_record(self._record()), ttl_s)
                case Load():
                    self._load(action.assigned)
                case Withdraw():
                    self._withdraw(action.model_id)
                case Reconnect():
                    self.host.after(action.after_s, self._control.hold)
                case Stop():
                    self._stop(action.error)

    def _lost(self) -> None:
        error = UnavailableError("the control stream broke")
        self._perform(self._membership.disconnected(error, self.host.now_s()))

    def _received(self, message: Told) -> None:
        match message:
            case Welcomed():
                self._perform(self._membership.welcomed(message.heartbeat_interval_s, self.host.now_s()))
            case Assigned():
                self._perform(self._membership.assigned(message))
            case Refusal():
                error = message.error
                is_older = isinstance(error, AssignmentError) and error.subject == self.host.id
                told = self._membership.superseded(error) if is_older else self._membership.refused(error)
                self._perform(told)
        self._load_changed()
        self._around.on_change()

    def _load(self, assigned: Assigned) -> None:
        self._around.trace.note("load", f"{self.host.id} {assigned.layers}")
        seconds = self.machine.load_layer_s * len(assigned.layers) * self._dice.uniform(0.7, 1.0)
        self.host.after(seconds, self._loaded, assigned)

    def _loaded(self, assigned: Assigned) -> None:
        model, layers = self._around.model, assigned.layers
        if model.span_bytes(layers) > self.machine.memory_bytes:
            error = ResourceExhaustedError("the layers do not fit")
            self._around.trace.note("load-failed", f"{self.host.id} {layers}")
            self._perform(self._membership.failed(assigned.model_id, error))
            return
        engine = SimulatedEngine(
            self.host,
            layers,
            is_tail=layers.end == model.config.num_layers,
            layer_s=self.machine.layer_s,
            num_kv_tokens=self.machine.num_kv_tokens,
            vocab_size=model.config.vocab_size,
            on_output=self.ring.stepped,
        )
        engine.slower = self._slower
        digest = model.served.manifest.digest
        hosted = HostedSpan(key=MODEL, layers=layers, num_layers=model.config.num_layers, manifest_digest=digest)
        self.ring.serve(hosted, engine)
        self._around.trace.note("ready", f"{self.host.id} {layers}")
        status = SpanStatus(
            model_id=MODEL,
            layers=layers,
            state="ready",
            manifest_digest=digest,
            dtype=DTYPE,
            verified=True,
            step_time_s=engine.step_time_s,
        )
        self._perform(self._membership.loaded(status))
        self._around.on_change()
        self._delays.measure()

    def _withdraw(self, model_id: str) -> None:
        self._around.trace.note("withdraw", self.host.id)
        self._around.on_withdraw(self)
        self.ring.withdraw(model_id)
        self._perform(self._membership.withdrawn(model_id))

    def _stop(self, error: OsaiError | None) -> None:
        self._around.trace.note("stopped", f"{self.host.id} {error.message if error else ''}")
        self._on_stopped(self)

    def _load_changed(self) -> None:
        if not self._busy:
            self._busy = True
            self.host.after(BUSY_TICK_S, self._busy_tick)

    def _busy_tick(self) -> None:
        self._busy = False
        self._advance()
        if self.is_draining or any(span.state == "draining" for span in self.spans):
            self._load_changed()

    def _tick(self) -> None:
        self._advance()
        self.host.after(TICK_S, self._tick)

    def _advance(self) -> None:
        self._perform(self._membership.tick(self.ring.num_sessions, self.host.now_s()))

    def _record(self) -> NodeState:
        load = self.ring.engine.load() if self.ring.engine else None
        free = self.ring.engine.num_free_kv_tokens if self.ring.engine else 0
        return NodeState(
            node_id=self.host.id,
            address=address_of(self.host.id),
            name=self.host.id,
            software="simulated",
            device="simulated",
            memory_bytes=self.machine.told_bytes,
            state=self._membership.state,
            spans=tuple(span_state(span, free, load) for span in self._membership.spans),
            sequence=next(self._sequence),
            num_sessions=self.ring.num_sessions,
            started_at_s=self._started_at_s,
            protocol_version=PROTOCOL_VERSION,
            delays=self._delays.estimates,
        )
