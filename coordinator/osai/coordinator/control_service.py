"""The control service: nodes join, send heartbeats, get assignments, leave."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from osai.coordinator.join_budget import JoinBudget
from osai.coordinator.placing.registrar import Assignment, Registrar, Wish
from osai.coordinator.private.place import PrivatePlace
from osai.coordinator.swarm import Swarm, served
from osai.coordinator.told_records import note_operator, read_told
from osai.core.admission.access import check_greeting
from osai.core.errors import AssignmentError, OsaiError, PeerError, ProtocolMismatchError, UnavailableError
from osai.core.layers import LayerRange
from osai.core.member_tls import peer_certificate
from osai.core.port.callers import caller_host
from osai.core.protocol import check_hello, hello
from osai.core.rpc import abort
from osai.proto import common_pb2, control_pb2, control_pb2_grpc

log = logging.getLogger(__name__)

GREETING_DEADLINE_S = 5.0  # a peer that dials and says nothing does not hold a stream for longer
HEARTBEAT_INTERVAL_S = 2.0  # two are missed before 5 s are over
MAX_WISHES = 256  # of a node; it names one for each of its models
MAX_WORD_CHARS = 255  # of a name or a precision
MAX_REASON_CHARS = 200  # of what is logged
MAX_SILENCE_S = 10.0  # a node that is silent for longer has lost its loop, if not its connection

OnAssigned = Callable[[str, Assignment], None]
Messages = AsyncIterator[control_pb2.NodeMessage]
Context = grpc.aio.ServicerContext[control_pb2.NodeMessage, control_pb2.CoordinatorMessage]


@dataclass(slots=True)
class _Stream:
    """A node's control stream: where to write, and which of the node's incarnations it is of."""

    context: Context
    started_at_s: float = 0.0


class ControlService(control_pb2_grpc.ControlServicer):
    """Serves Control.Membership.

    Args:
        on_assigned: told of every assignment that a node gets when it joins.
        on_served: told when a node has come to serve something else than before.
        place: of this coordinator in a private swarm; None in a public one.
        budget: what one peer is told by joining.
    """

    def __init__(
        self,
        coordinator_id: str,
        swarm: Swarm,
        registrar: Registrar,
        dht_addresses: tuple[str, ...],
        on_assigned: OnAssigned = lambda _node_id, _assignment: None,
        on_served: Callable[[], None] = lambda: None,
        place: PrivatePlace | None = None,
        budget: JoinBudget | None = None,
    ) -> None:
        self._coordinator_id = coordinator_id
        self._swarm = swarm
        self._registrar = registrar
        self._dht_addresses = dht_addresses
        self._on_assigned = on_assigned
        self._on_served = on_served
        self._place = place
        self._budget = budget or JoinBudget()
        self._streams: dict[str, _Stream] = {}
        self._last_assignment_id = 0

    async def Membership(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
        """One node's membership, from its hello until its stream ends."""
        node_id, stream = "", _Stream(context)
        try:
            node_id = await self._greet(request_iterator, context)
            await self._serve(node_id, request_iterator, stream)
        except OsaiError as e:
            log.warning("node %s: %s", node_id or context.peer(), e)
            await _say(context, control_pb2.CoordinatorMessage(error=e.to_proto()))
            await abort(context, e)
        finally:
            if node_id and self._streams.get(node_id) is stream:  # not where it has dialled in anew meanwhile
                del self._streams[node_id]
                self._registrar.left(node_id)
                self._swarm.lost(node_id, time.monotonic())
                log.info("node %s has gone", node_id)

    async def tell(self, node_id: str, assignment: Assignment, *, replace: bool, urgent: bool = False) -> None:
        """Give a node layers; with `replace` in place of what it hosts, with `urgent` at once.

        Nothing where its stream has ended.
        """
        stream = self._streams.get(node_id)
        if stream is None:
            return
        # milliseconds: rises over a coordinator's restarts, and from one coordinator to the next
        self._last_assignment_id = max(self._last_assignment_id + 1, int(time.time() * 1000))
        message = control_pb2.Assignment(
            assignment_id=self._last_assignment_id,
            model_id=assignment.model.model_id,
            span=common_pb2.LayerRange(start=assignment.layers.start, end=assignment.layers.end),
            manifest=assignment.model.manifest_file,
            source=assignment.model.source,
            replace=replace,
            urgent=urgent,
        )
        log.info("node %s is to host layers %s of %s", node_id, assignment.layers, message.model_id)
        await _say(stream.context, control_pb2.CoordinatorMessage(assignment=message))

    async def tell_revocations(self, sealed: bytes) -> None:
        """Give every node a newer revocation list."""
        message = control_pb2.CoordinatorMessage(revocations=sealed)
        await asyncio.gather(*(_say(stream.context, message) for stream in list(self._streams.values())))

    async def _greet(self, messages: Messages, context: Context) -> str:
        first = await _next(messages, GREETING_DEADLINE_S)
        if first is None or first.WhichOneof("kind") != "hello":
            raise ProtocolMismatchError(
                "the first message on a control stream must be hello; is the peer an osai node?"
            )
        check_hello(first.hello)
        if not first.hello.peer_id:
            raise PeerError("a node's hello must name its id")
        if self._place is not None:
            check_greeting(self._place.tls.peer_of(peer_certificate(context)), first.hello.peer_id)
        await context.write(control_pb2.CoordinatorMessage(hello=hello(self._coordinator_id)))
        return first.hello.peer_id

    async def _serve(self, node_id: str, messages: Messages, stream: _Stream) -> None:
        while (message := await _next(messages, MAX_SILENCE_S)) is not None:
            kind = message.WhichOneof("kind")
            if kind == "join":
                await self._join(node_id, message.join, stream)
                continue
            if kind in ("heartbeat", "leave") and self._streams.get(node_id, stream) is not stream:
                raise _superseded(node_id)
            if kind == "heartbeat":
                self._heard(node_id, message.heartbeat)
                self._streams.setdefault(node_id, stream)
            elif kind == "leave":
                log.info("node %s leaves: %s", node_id, message.leave.reason[:MAX_REASON_CHARS])

    async def _join(self, node_id: str, join: control_pb2.Join, stream: _Stream) -> None:
        wishes = _read_wishes(join)
        stream.started_at_s = join.record.started_at_s
        older = self._streams.get(node_id)
        if older is not None and older is not stream and older.started_at_s > stream.started_at_s:
            raise _superseded(node_id)
        self._heard(node_id, join)
        self._streams[node_id] = stream
        if older is not None and older is not stream:
            await self._end(node_id, older)
        welcome = control_pb2.Welcome(
            dht_addresses=self._dht_addresses, heartbeat_interval_s=HEARTBEAT_INTERVAL_S, time_s=time.time()
        )
        assignments = self._assign(node_id, join, wishes, stream.context.peer())
        log.info("node %s (%s) has joined from %s", node_id, join.record.name[:MAX_REASON_CHARS], stream.context.peer())
        await _say(stream.context, control_pb2.CoordinatorMessage(welcome=welcome))
        if self._place is not None:
            await _say(stream.context, control_pb2.CoordinatorMessage(revocations=self._place.admission.sealed))
        for assignment in assignments:
            self._on_assigned(node_id, assignment)
            await self.tell(node_id, assignment, replace=False)

    def _assign(self, node_id: str, join: control_pb2.Join, wishes: list[Wish], caller: str) -> tuple[Assignment, ...]:
        """What a node is to host, within what its peer may be told (B8): each comes with a whole manifest."""
        peer = node_id if self._place is not None else caller_host(caller) or node_id
        self._budget.check(peer, time.monotonic())
        assignments = tuple(self._registrar.joined(node_id, wishes, join.dtype, join.memory_bytes))
        num_bytes = sum(len(assignment.model.manifest_file) for assignment in assignments)
        self._budget.told(peer, num_bytes, time.monotonic())
        return assignments

    async def _end(self, node_id: str, older: _Stream) -> None:
        """Tell the former incarnation, if it is still there, why it is not heard any more."""
        error = control_pb2.CoordinatorMessage(error=_superseded(node_id).to_proto())
        with contextlib.suppress(asyncio.InvalidStateError, grpc.RpcError, asyncio.CancelledError, grpc.aio.UsageError):
            await _say(older.context, error)

    def _heard(self, node_id: str, told: control_pb2.Join | control_pb2.Heartbeat) -> None:
        is_member = self._place is not None
        node = read_told(told.record, told.sealed, node_id=node_id, is_member=is_member, now_s=time.time())
        if node.node_id != node_id:
            raise PeerError(f"node {node_id} sent the record of {node.node_id}")
        before = self._swarm.get(node_id)
        self._swarm.heard(node, time.monotonic())
        note_operator(node, before, self._swarm.get(node_id))
        if served(self._swarm.get(node_id)) != served(before):
            self._on_served()


def _superseded(node_id: str) -> AssignmentError:
    return AssignmentError(
        f"another process has joined as node {node_id} and was started later; a node's --state folder is for one "
        "process: end one of the two, or give this one a folder of its own",
        subject=node_id,
    )


async def _next(messages: Messages, deadline_s: float) -> control_pb2.NodeMessage | None:
    try:
        async with asyncio.timeout(deadline_s):
            return await anext(messages, None)
    except TimeoutError as e:
        raise UnavailableError(f"nothing was heard for {deadline_s:.0f} s") from e


async def _say(context: Context, message: control_pb2.CoordinatorMessage) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        async with asyncio.timeout(GREETING_DEADLINE_S):
            await context.write(message)


def _read_wishes(join: control_pb2.Join) -> list[Wish]:
    if len(join.wishes) > MAX_WISHES:
        raise PeerError(f"{len(join.wishes)} wishes came; at most {MAX_WISHES} are taken")
    if max(len(join.dtype), *(len(wish.model_id) for wish in join.wishes), 0) > MAX_WORD_CHARS:
        raise PeerError(f"a name or precision is over the limit of {MAX_WORD_CHARS} characters")
    return [_read_wish(wish) for wish in join.wishes]


def _read_wish(wish: control_pb2.Wish) -> Wish:
    layers = LayerRange(wish.span.start, wish.span.end) if wish.HasField("span") else None
    return Wish(model_id=wish.model_id, layers=layers)
