"""A coordinator's session among simulated stages: a virtual clock, links with delays, and bad luck from a seed."""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from coordinator.builders import MODEL, model, node, span
from coordinator.sim_stage import SimStage, Spec, reference, unreachable
from osai.coordinator.api import Rerouted, StageView, Waiting
from osai.coordinator.routes.routing import RouteWish, find_pipeline, find_standby
from osai.coordinator.sessions.actions import (
    Action,
    Close,
    Detour,
    Emit,
    End,
    FindPipeline,
    FindStandby,
    Follow,
    Found,
    Open,
    OpenFollower,
    OpenKind,
    Resume,
    SendIds,
    TokenEvent,
)
from osai.coordinator.sessions.config import SupervisionConfig
from osai.coordinator.sessions.session import Session
from osai.coordinator.swarm_state import NodeState
from osai.core.errors import NotCoveredError, OsaiError, UnavailableError
from osai.core.layers import LayerRange

COORDINATOR = "coordinator"
SERVED = model(cast("Any", None))
NUM_LAYERS = SERVED.facts.num_layers


@dataclass
class SimWorld:
    """One run.

    Attributes:
        spans: node name -> its layers.
        old: names of nodes that speak protocol 1.
    """

    seed: int
    spans: dict[str, tuple[int, int]]
    prompt: list[int]
    max_tokens: int
    standby: bool = False
    old: frozenset[str] = frozenset()
    num_tokens: int = 0  # known as the session is resumed
    attempt: int = 0
    config: SupervisionConfig = field(default_factory=SupervisionConfig)
    now_s: float = 0.0
    emitted: list[int] = field(default_factory=list)
    told: list[Action] = field(default_factory=list)
    end: End | None = None
    gone: set[str] = field(default_factory=set)  # dead
    unheard: set[str] = field(default_factory=set)  # not in the swarm
    draining: set[str] = field(default_factory=set)
    suspects: set[str] = field(default_factory=set)
    broken: set[tuple[str, str]] = field(default_factory=set)  # edges

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._free: dict[tuple[str, str], float] = {}
        self.stages = {name: self._make(name) for name in self.spans}
        self.number = 1
        self.known = [*self.prompt, *reference(self.prompt, self.num_tokens, NUM_LAYERS)]
        views = tuple(self._found(Detour()) or ())
        self.session = Session(
            views, len(self.prompt), self.config, 0.0,
            num_tokens=self.num_tokens, attempt=self.attempt, with_standbys=self.standby,
        )  # fmt: skip

    def _make(self, name: str) -> SimStage:
        return SimStage(
            name, LayerRange(*self.spans[name]), NUM_LAYERS, send=self._rows, tell=self._tell,
            later=lambda call: self.after(self.random.uniform(0.001, 0.01), self._if_alive(name, call)),
            is_old=name in self.old,
        )  # fmt: skip

    def _if_alive(self, name: str, call: Callable[[], None]) -> Callable[[], None]:
        stage = self.stages.get(name)
        return lambda: call() if name not in self.gone and self.stages.get(name) is stage else None

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Let something happen."""
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._order), call))

    def run(self, until_s: float = 600.0) -> None:
        """Run to the end."""
        self.perform(self.session.start())
        while self.end is None:
            due_s = self.session.deadline_s
            if self._events and self._events[0][0] <= due_s:
                self.now_s, _, call = heapq.heappop(self._events)
                call()
            else:
                self.now_s = max(self.now_s, due_s)
                self.perform(self.session.tick(self.now_s))
            assert self.now_s < until_s, "it does not end"

    def settle(self, for_s: float = 5.0) -> None:
        """Let everything arrive that is on its way after the end."""
        until_s = self.now_s + for_s
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, call = heapq.heappop(self._events)
            call()

    def kill(self, name: str, back_s: float | None = None) -> None:
        """A node dies; perhaps it is back later, empty."""
        if name in self.gone:
            return
        self.gone.add(name)
        self.after(self.random.uniform(0.0, 0.05), lambda: self.lose(name))
        for other in self.stages.values():
            for number, held in other.held.items():
                if name in (held.spec.successor, held.follower):
                    self._edge_lost(other.name, number, held.spec.epoch, name)
        if back_s is not None:
            self.after(back_s, lambda: self._return(name))

    def lose(self, name: str, back_s: float | None = None) -> None:
        """The coordinator's link to a node breaks; perhaps the node is heard of again."""
        self.unheard.add(name)
        self.stages[name].has_owner = False
        self.perform(self.session.lost(name, UnavailableError("reset"), self.now_s))
        if back_s is not None:
            self.after(back_s, lambda: self._hear(name))

    def break_edge(self, sender: str, receiver: str) -> None:
        """A link between two nodes breaks for good."""
        self.broken.add((sender, receiver))
        for number, held in self.stages[sender].held.items():
            if receiver in (held.spec.successor, held.follower):
                self._edge_lost(sender, number, held.spec.epoch, receiver)

    def watch(self) -> None:
        """What the shell does now and then."""
        self.perform(self.session.watched(frozenset(self.suspects), frozenset(self.draining), self.now_s))
        self.after(0.5, self.watch)

    def _edge_lost(self, sender: str, number: int, epoch: int, receiver: str) -> None:
        call = self._if_alive(sender, lambda: self.stages[sender].failed(number, epoch, unreachable(receiver)))
        self.after(self.random.uniform(0.0, 0.05), call)

    def _return(self, name: str) -> None:
        self.gone.discard(name)
        self.stages[name] = self._make(name)
        self._hear(name)

    def _hear(self, name: str) -> None:
        if name not in self.gone:
            self.unheard.discard(name)
            self.stages[name].has_owner = True
            self.perform(self.session.swarm_changed(self.now_s))

    def _nodes(self) -> list[NodeState]:
        return [
            node(
                name,
                span(*layers, manifest_digest=SERVED.manifest.digest, model_id=MODEL),
                state="draining" if name in self.draining else "ready",
                protocol_version=1 if name in self.old else 2,
            )
            for name, layers in self.spans.items()
            if name not in self.unheard
        ]

    def _wish(self, detour: Detour, min_version: int = 1) -> RouteWish:
        return RouteWish(
            num_tokens=10, avoid=detour.avoid, avoid_edges=detour.avoid_edges, kept=detour.kept,
            suspects=detour.suspects | self.suspects, min_version=min_version,
        )  # fmt: skip

    def _found(self, detour: Detour, min_version: int = 1) -> tuple[StageView, ...] | None:
        return find_pipeline(self._nodes(), SERVED, self._wish(detour, min_version))

    def perform(self, actions: Sequence[Action]) -> None:
        """Do what the session wants done."""
        for action in actions:
            self.told.append(action)
            match action:
                case FindPipeline():
                    self.perform(self._find(action))
                case FindStandby():
                    view = find_standby(self._nodes(), SERVED, action.stage, self._wish(action.detour))
                    view = None if self.old else view
                    self.perform(self.session.standby_found(action.stage, view, self.now_s))
                case Emit():
                    self.known.append(action.token.token_id)
                    self.emitted.append(action.token.token_id)
                case End():
                    self.end = action
                case Rerouted() | Waiting():
                    pass
                case _:
                    self._send(action)

    def _find(self, action: FindPipeline) -> list[Action]:
        try:
            pipeline = self._found(action.detour)
        except NotCoveredError as e:
            return self.session.no_pipeline(e, self.now_s)
        if pipeline is None:
            return self.session.no_pipeline(None, self.now_s)
        resumable = not any(stage.node_id in self.old for stage in pipeline)
        return self.session.pipeline_found(Found(pipeline=pipeline, resumable=resumable), self.now_s)

    def _send(self, action: Action) -> None:
        match action:
            case Open():
                self.number += action.kind is OpenKind.RESTART
                for index, stage in enumerate(action.pipeline):
                    successor = action.pipeline[(index + 1) % len(action.pipeline)].node_id
                    self._open(stage.node_id, action, successor, resume=action.kind is OpenKind.RESUME)
            case OpenFollower():
                successor = action.pipeline[(action.index + 1) % len(action.pipeline)].node_id
                self._open(action.follower.node_id, action, successor, resume=action.resume, follow=True)
            case Resume():
                number, name = self.number, action.stage.node_id
                say = (number, action.epoch, action.position, action.push_from)
                self._deliver(COORDINATOR, name, lambda: self.stages[name].resume(*say))
            case Follow():
                number, name = self.number, action.stage.node_id
                follower = action.follower.node_id if action.follower else ""
                follow = (number, action.epoch, follower, action.follow_from)
                self._deliver(COORDINATOR, name, lambda: self.stages[name].follow(*follow))
            case SendIds():
                ids = self.known[action.position : action.end]
                self._rows(COORDINATOR, action.stage.node_id, self.number, action.epoch, action.position, ids)
            case Close():
                for stage in action.stages:
                    self._close(stage.node_id, self.number, action.epoch)

    def _close(self, name: str, number: int, epoch: int) -> None:
        self._deliver(COORDINATOR, name, lambda: self.stages[name].close(number, epoch))

    def _open(
        self, name: str, action: Open | OpenFollower, successor: str, *, resume: bool, follow: bool = False
    ) -> None:
        spec = Spec(
            number=self.number, epoch=action.epoch, successor=successor, resume=resume, follow=follow,
            num_prompt_tokens=action.num_prompt_tokens, num_known_tokens=action.num_known_tokens,
            max_total_tokens=len(self.prompt) + self.max_tokens,
        )  # fmt: skip
        self._deliver(COORDINATOR, name, lambda: self.stages[name].open(spec))

    def _rows(self, sender: str, receiver: str, number: int, epoch: int, position: int, values: list[int]) -> None:
        if (sender, receiver) in self.broken or receiver in self.gone:
            if sender != COORDINATOR:
                self._edge_lost(sender, number, epoch, receiver)
            return
        at = 0
        while at < len(values):  # in chunks
            count = self.random.randint(1, 8)
            part = (number, epoch, position + at, values[at : at + count])
            self._deliver(sender, receiver, lambda part=part: self.stages[receiver].rows(sender, *part))  # type: ignore[misc]
            at += count

    def _tell(self, kind: str, name: str, number: int, *what: Any) -> None:  # noqa: ANN401 - of any event
        if kind == "refused" and name != COORDINATOR:
            self._deliver(COORDINATOR, name, lambda: self.stages[name].failed(number, *what))
            return
        for _ in range(2 if kind == "token" and self.random.random() < 0.05 else 1):  # some come twice
            self._deliver(name, COORDINATOR, lambda: self._hears(kind, name, number, *what))

    def _hears(self, kind: str, name: str, number: int, *what: Any) -> None:  # noqa: ANN401
        if number != self.number:
            return
        session, now_s = self.session, self.now_s
        match kind:
            case "opened":
                self.perform(session.opened(name, what[0], now_s))
            case "progress":
                self.perform(session.progressed(name, *what))
            case "token":
                epoch, index, token, finish = what
                event = TokenEvent(epoch=epoch, index=index, token_id=token, finish=finish)
                self.perform(session.token(name, event, now_s))
            case "failed":
                self.perform(session.failed(name, what[0], cast("OsaiError", what[1]), now_s, is_open=what[2]))
            case "refused":
                self.perform(session.failed(what[1].subject, what[0], what[1], now_s))

    def _deliver(self, sender: str, receiver: str, call: Callable[[], None]) -> None:
        """In order on each link; what goes to or comes from the dead is lost."""
        if receiver in self.gone or sender in self.gone:
            return
        if COORDINATOR in (sender, receiver) and not {sender, receiver}.isdisjoint(self.unheard):
            return
        at_s = max(self.now_s + self.random.uniform(0.0005, 0.01), self._free.get((sender, receiver), 0.0))
        self._free[sender, receiver] = at_s
        self.after(at_s - self.now_s, self._if_alive(receiver, call))
