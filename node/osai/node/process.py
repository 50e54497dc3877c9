"""The node's shell around its membership: carries out what it decides, tells it what happens."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from osai.core.directory import Directory
from osai.core.errors import AssignmentError, InternalError, OsaiError, UnavailableError, from_proto
from osai.core.identity import Identity
from osai.core.private_member import PrivateMember
from osai.core.records import NODES_KEY
from osai.core.state import LIBP2P_KEY_FILE
from osai.node.config import NodeConfig
from osai.node.control import Control
from osai.node.control_wire import read_assignment, write_join
from osai.node.coordinators import Coordinators, is_multiaddr
from osai.node.delay_probes import DelayProbes
from osai.node.found import reason_of
from osai.node.hosting import Host
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
from osai.node.operator import seal_record
from osai.node.record import NodeFacts, write_record, write_span
from osai.node.ring import Ring
from osai.proto import control_pb2, record_pb2

log = logging.getLogger(__name__)

MAX_CLOCK_SKEW_S = 3.0  # hivemind's own bound; off by more than a record's life, 30 s, nodes can't see each other
TICK_S = 0.2  # a drain ends, and a heartbeat goes out, at most this late
DIRECTORY_RETRY_S = 5.0  # libp2p's daemon may be slow to start on a busy machine
LAST_WORDS_S = 1.0  # for the last record to get out when the node stops


class _StoppedError(Exception):
    """Ends the process's task group."""


class NodeProcess:
    """Runs one node until it leaves or fails.

    Args:
        on_ready: awaited once, when every wished span serves.
        member: this node's place in a private swarm; None in a public one.
    """

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        facts: NodeFacts,
        ring: Ring,
        host: Host,
        on_ready: Callable[[tuple[SpanStatus, ...]], Awaitable[None]],
        member: PrivateMember | None = None,
    ) -> None:
        self._config = config
        self._identity = identity
        self._facts = facts
        self._ring = ring
        self._host = host
        self._on_ready = on_ready
        self._member = member
        self._settings = MembershipConfig(
            join_deadline_s=config.join_deadline_s, drain_deadline_s=config.drain_deadline_s
        )
        self._membership = Membership(
            self._settings,
            num_wished=len(config.wishes),
            now_s=time.monotonic(),
            named=frozenset(wish.model_id for wish in config.wishes if wish.model_id),
            pinned=frozenset(wish.model_id for wish in config.wishes if wish.layers is not None),
        )
        given = None if is_multiaddr(config.address) else config.address
        tls = member.tls if member else None
        self._control = Control(identity.node_id, Coordinators(given), self._greeted, self._received, tls)
        self._directory: Directory | None = None
        self._probes = DelayProbes(identity.node_id, ring, lambda: self._membership.spans, lambda: self._directory)
        ring.on_echo = self._probes.echoed
        host.join(lambda: self._directory, self._announce)
        self._joining: asyncio.Task[None] | None = None
        self._announcing = asyncio.Lock()
        self._sequence = itertools.count(int(time.time() * 1000))  # rises across restarts too
        self._tasks = asyncio.TaskGroup()
        self._stopped: asyncio.Future[OsaiError | None] = asyncio.get_running_loop().create_future()
        self._ready = False

    async def run(self) -> None:
        """Join, serve, and return once the node has left.

        Raises:
            OsaiError: why it could not join, or could not go on.
        """
        try:
            async with self._tasks:
                if is_multiaddr(self._config.address):
                    await self._join_directory([self._config.address])
                self._tasks.create_task(self._hold_control(0.0))
                self._tasks.create_task(self._tick())
                self._tasks.create_task(self._probes.run())
                if self._member is not None:
                    self._tasks.create_task(self._member.keep(lambda: self._control.address))
                await asyncio.shield(self._stopped)
                raise _StoppedError  # noqa: TRY301 - the way out of a task group
        except* _StoppedError:
            pass
        except* OsaiError as group:
            raise group.exceptions[0] from None
        finally:
            if self._directory is not None:
                await self._directory.stop()
        if (error := self._stopped.result()) is not None:
            raise error

    def drain(self, reason: str) -> None:
        """Leave as soon as no session is left, at once if called again; safe in a signal handler of the loop."""
        if self._membership.is_draining:
            log.warning("not waiting for %d sessions: %s again", self._ring.num_sessions, reason)
            self._perform([Stop()])
            return
        self._drain(reason)

    def _drain(self, reason: str) -> None:
        log.info("draining: %s", reason)
        self._perform(self._membership.drain(reason, time.monotonic()))

    def fail(self, error: OsaiError) -> None:
        """Stop at once: the engine can't go on."""
        self._perform([Stop(error)])

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case SendJoin():
                    join = write_join(*self._sealed_record(), self._config)
                    self._control.send(control_pb2.NodeMessage(join=join))
                case SendHeartbeat():
                    record, sealed = self._sealed_record()
                    heartbeat = control_pb2.Heartbeat(record=record, sealed=sealed)
                    self._control.send(control_pb2.NodeMessage(heartbeat=heartbeat))
                case SendLeave():
                    self._control.send(control_pb2.NodeMessage(leave=control_pb2.Leave(reason=action.reason)))
                case Announce():
                    self._tasks.create_task(self._announce())
                case Load():
                    self._tasks.create_task(self._load(action.assigned))
                case Withdraw():
                    self._tasks.create_task(self._withdraw(action.model_id))
                case Reconnect():
                    self._tasks.create_task(self._hold_control(action.after_s))
                case Stop():
                    self._tasks.create_task(self._stop(action.error))

    def _greeted(self) -> None:
        self._perform(self._membership.connected())

    def _received(self, message: control_pb2.CoordinatorMessage) -> None:
        match message.WhichOneof("kind"):
            case "welcome":
                if self._joining is None:
                    addresses = list(message.welcome.dht_addresses)
                    self._joining = self._tasks.create_task(self._keep_joining_directory(addresses))
                _check_clock(message.welcome.time_s)
                interval_s = message.welcome.heartbeat_interval_s
                self._perform(self._membership.welcomed(interval_s, time.monotonic()))
            case "assignment":
                self._perform(self._membership.assigned(read_assignment(message.assignment)))
            case "drain":
                self._drain(message.drain.reason)
            case "revocations" if self._member is not None:
                self._member.revoke(message.revocations)
            case "error":
                error = from_proto(message.error)
                log.error("the coordinator refuses this node: %s", error)
                older = isinstance(error, AssignmentError) and error.subject == self._facts.node_id
                self._perform(self._membership.superseded(error) if older else self._membership.refused(error))

    async def _hold_control(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        reason = await self._control.hold(self._directory)
        log.warning("no control stream: %s", reason)
        self._perform(self._membership.disconnected(reason, time.monotonic()))

    async def _join_directory(self, peers: list[str]) -> None:
        key_file: Path = self._config.state_dir / LIBP2P_KEY_FILE
        self._directory = await Directory.start(
            self._identity,
            listen=self._config.dht_listen,
            initial_peers=peers,
            key_file=key_file,
            tls=self._member.tls if self._member else None,
        )
        self._perform([Announce()])

    async def _keep_joining_directory(self, peers: list[str]) -> None:
        """Join through the coordinator's own DHT member; what the node serves does not wait for it."""
        while self._directory is None:
            try:
                await self._join_directory(peers)
            except UnavailableError as e:  # an address that can't be listened on ends the node
                log.warning("not in the DHT yet: %s", e)
                await asyncio.sleep(DIRECTORY_RETRY_S)

    async def _announce(self) -> None:
        if self._directory is None:
            return
        async with self._announcing:  # in order: a later record must not be overtaken by an earlier one
            try:
                ttl_s = self._settings.record_ttl_s
                await self._directory.announce(NODES_KEY, self._record().SerializeToString(), ttl_s=ttl_s)
            except OsaiError as e:
                log.warning("not announced: %s", e)

    async def _load(self, assigned: Assigned) -> None:
        why = reason_of(assigned, self._config.wishes)
        log.info("assigned layers %s of %s: %s", assigned.layers, assigned.model_id, why)
        try:
            loaded = await self._host.load(assigned)
        except OsaiError as e:
            log.error("layers %s of %s can't be served: %s", assigned.layers, assigned.model_id, e)  # noqa: TRY400
            self._perform(self._membership.failed(assigned.model_id, e))
            return
        except Exception as e:
            log.exception("layers %s of %s can't be served", assigned.layers, assigned.model_id)
            error = InternalError(f"loading {assigned.model_id} failed ({type(e).__name__}: {e}); the log says more")
            self._perform(self._membership.failed(assigned.model_id, error))
            return
        self._ring.serve(loaded.served)
        self._perform(self._membership.loaded(loaded.status))
        if self._membership.state == "ready" and not self._ready:
            self._ready = True
            await self._on_ready(self._membership.spans)

    async def _withdraw(self, model_id: str) -> None:
        log.info("the span of %s is withdrawn; %d sessions were left", model_id, self._ring.num_sessions)
        self._ring.withdraw(model_id)
        await self._host.unload(model_id)
        self._perform(self._membership.withdrawn(model_id))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._ring.tick(time.monotonic())
            self._perform(self._membership.tick(self._ring.num_sessions, time.monotonic()))

    async def _stop(self, error: OsaiError | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S), self._announcing:
                await asyncio.sleep(0)  # what was to be announced before is out now
        if not self._stopped.done():
            self._stopped.set_result(error)

    def _sealed_record(self) -> tuple[record_pb2.NodeRecord, bytes]:
        record, expiry_s = self._record(), time.time() + self._settings.record_ttl_s
        return record, seal_record(record, self._facts, self._identity, expiry_s)

    def _record(self) -> record_pb2.NodeRecord:
        engine = self._ring.engine
        spans = [
            write_span(span, engine.num_free_kv_tokens(span.model_id), engine.load(span.model_id))
            if span.state == "ready"
            else write_span(self._host.known(span), 0)
            for span in self._membership.spans
        ]
        state, sequence = self._membership.state, next(self._sequence)
        return write_record(
            self._facts,
            state,
            spans,
            num_sessions=self._ring.num_sessions,
            sequence=sequence,
            delays=self._probes.estimates,
        )


def _check_clock(coordinators_s: float) -> None:
    """Say so where this machine's clock is off; a coordinator of protocol 1 does not tell its own."""
    ahead_s = time.time() - coordinators_s
    if coordinators_s and abs(ahead_s) > MAX_CLOCK_SKEW_S:
        log.warning("this machine's clock is %.0f s %s the coordinator's, and DHT records expire by it: set it (NTP)",
                    abs(ahead_s), "ahead of" if ahead_s > 0 else "behind")  # fmt: skip
