"""The stage of a simulated node: the thinnest shell around production's StageTable and Journal."""

from collections.abc import Callable, Sequence

from scripts.simulation.connection import End
from scripts.simulation.desk import SimulatedDesk
from scripts.simulation.engine import SimulatedEngine
from scripts.simulation.hosts import Host
from scripts.simulation.messages import Frames, pack, read_frames, unpack
from scripts.simulation.network import EDGE, Network
from scripts.simulation.node_links import NodeLinks

from osai.core.errors import OsaiError, from_proto
from osai.core.frames import FrameShape
from osai.node.engine.api import Rows, StepOutput
from osai.node.stages.journal import Journal
from osai.node.stages.stage import (
    Action,
    Deliver,
    Fail,
    Forward,
    HostedSpan,
    Keep,
    Peer,
    Release,
    Replay,
    Report,
    Return,
)
from osai.node.stages.table import StageTable
from osai.node.wire import write_failed, write_report, write_token
from osai.proto import common_pb2, edge_pb2

TICK_S = 0.5
MAX_REPLAY_ROWS = 32  # less than the real one's: more messages to go wrong
REPLAY_S = 0.0005  # between two of a replay
SHAPE = FrameShape(dtype=common_pb2.DTYPE_FLOAT32, hidden_size=2)  # eight bytes a row, as a hash has


class SimulatedRing:
    """Sessions on one node.

    Args:
        me: this node.
        host: its process.
        network: to speak over.
        journal: keeps what was pushed.
        on_load: called when the number of sessions may have changed.
    """

    def __init__(self, me: Peer, host: Host, network: Network, journal: Journal, on_load: Callable[[], None]) -> None:
        self._me = me
        self._host = host
        self._table = StageTable()
        self._journal = journal
        self._on_load = on_load
        self._links = NodeLinks(network, host, self._answered, self._lost)
        self._owners: dict[int, End] = {}
        self._num_owners = 0
        self._desk = SimulatedDesk(self._table, journal, self._tell, self._perform)
        self._ticking = False
        network.listen(host, EDGE, self._attach)

    @property
    def engine(self) -> SimulatedEngine | None:
        """Of the span that is served."""
        return self._desk.engine

    @property
    def num_sessions(self) -> int:
        """Open here, with an owner."""
        return self._table.num_sessions

    @property
    def num_held(self) -> int:
        """Sessions whose KV is here, orphans among them."""
        return self.engine.num_sessions if self.engine else 0

    def serve(self, span: HostedSpan, engine: SimulatedEngine) -> None:
        """Serve a span."""
        self._desk.engine = engine
        self._table.host(span)

    def withdraw(self, key: str) -> None:
        """Serve it no longer."""
        self._perform(self._table.withdraw(key))
        self._desk.engine = None
        self._on_load()

    def stepped(self, output: StepOutput, values: list[int]) -> None:
        """The engine's on_output."""
        self._perform(self._table.stepped(output), values)

    def _attach(self, end: End) -> None:
        self._num_owners += 1
        owner = self._num_owners
        self._owners[owner] = end
        end.on_message = lambda message: self._receive(owner, message)
        end.on_closed = lambda: self._detach(owner)

    def _detach(self, owner: int) -> None:
        self._owners.pop(owner, None)
        self._table.owner_lost(owner, self._host.now_s())
        self._on_load()

    def _receive(self, owner: int, message: Frames | edge_pb2.LinkMessage) -> None:
        if isinstance(message, Frames):
            self._take(owner, message)
            return
        match message.WhichOneof("kind"):
            case "frames":
                self._take(owner, read_frames(message.frames))
            case "open":
                self._desk.open(owner, self._owners[owner].peer, message.open)
                self._tick_later()
            case "resume":
                for sender, rows, values in self._desk.resume(owner, message.resume):
                    self._run(sender, rows, values)
            case "follow":
                self._desk.follow(owner, message.follow)
            case "close":
                self._desk.close(message.close)
        self._on_load()

    def _take(self, owner: int, frames: Frames) -> None:
        at = 0
        for rows in frames.rows:
            self._run(owner, rows, frames.values[at : at + rows.count])
            at += rows.count

    def _run(self, owner: int, rows: Rows, values: list[int]) -> None:
        try:
            if self._table.span_of(rows) is None or self.engine is None:
                return
            match self._table.take(rows):
                case "hold":
                    self._desk.hold(owner, rows, values)
                case "run":
                    self.engine.submit(rows, values)
        except OsaiError as e:
            self._refuse(owner, rows, e)

    def _refuse(self, owner: int, rows: Rows, error: OsaiError) -> None:
        if owner == 0:
            self._perform(self._table.fail(rows.session, error))
        else:
            self._tell(owner, write_failed(rows.session, rows.epoch, error))

    def _answered(self, peer: str, message: object) -> None:
        if not isinstance(message, edge_pb2.LinkMessage):
            return
        failed, error = message.failed, from_proto(message.failed.error)
        error.subject = error.subject or peer
        self._perform(self._table.refused(failed.session, failed.epoch, peer, error))

    def _lost(self, peer: str) -> None:
        self._perform(self._table.peer_lost(peer))

    def _tell(self, owner: int, message: edge_pb2.LinkMessage) -> None:
        if (end := self._owners.get(owner)) is not None:
            end.send(message)

    def _perform(self, actions: Sequence[Action], values: list[int] | None = None) -> None:
        for action in actions:
            match action:
                case Keep():
                    self._keep(action, values or [])
                case Forward():
                    cut = [value for a, b in action.slices for value in (values or [])[a:b]]
                    self._push(action.peer, action.rows, cut, "prefill" if action.prefill else "decode")
                case Replay():
                    self._replay(action)
                case Return():
                    self._return(action)
                case Deliver():
                    batch = edge_pb2.TokenBatch(tokens=[write_token(token) for token in action.tokens])
                    self._tell(action.owner, edge_pb2.LinkMessage(tokens=batch))
                case Report():
                    self._tell(action.owner, write_report(action))
                case Fail():
                    failed = write_failed(action.session, action.epoch, action.error, is_open=action.open)
                    self._tell(action.owner, failed)
                case Release():
                    self._desk.release(action.session)
                    self._on_load()

    def _keep(self, action: Keep, values: list[int]) -> None:
        for rows, start in zip(action.rows, action.starts, strict=True):
            data = pack(values[start : start + rows.count])
            self._journal.append(rows.session, rows.position, rows.count, data, SHAPE)

    def _replay(self, action: Replay) -> None:
        found = self._table.next_replay(action, MAX_REPLAY_ROWS)
        if found is None:
            return
        peer, rows = found
        data = self._journal.read(rows.session, rows.position, rows.position + rows.count)
        if data is None:
            self._perform(self._table.cannot_replay(action))
            return
        self._push(peer, (rows,), unpack(data), "prefill")
        self._host.after(REPLAY_S, self._replay, action)

    def _return(self, action: Return) -> None:
        if action.peer.node_id != self._me.node_id:
            self._push(action.peer, action.rows, list(action.token_ids), "decode")
            return
        for rows, token in zip(action.rows, action.token_ids, strict=True):
            self._run(0, rows, [token])

    def _push(self, peer: Peer, rows: tuple[Rows, ...], values: list[int], lane: str) -> None:
        self._links.send(peer.node_id, peer.address, lane, Frames(rows, values))

    def _tick_later(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._host.after(TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        self._perform(self._table.tick(self._host.now_s()))
        if self.num_held:
            self._tick_later()
