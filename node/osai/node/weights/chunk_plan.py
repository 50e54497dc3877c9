"""Which chunk is asked for next, and of whom: a pure state machine, events and `now` in, actions out.

The shell (osai.node.weights.fetcher) asks, and tells what comes. Nothing that comes is believed before its digest is
the chunk's. See docs/weights.md.
"""

from collections.abc import Sequence
from random import Random

from osai.core.manifest import Chunk
from osai.node.weights import bits
from osai.node.weights.blames import Blames, Fault
from osai.node.weights.plan_actions import Action, AskPeer, AskSource, Blame, Cancel, GiveUp, Keep, PlanConfig
from osai.node.weights.plan_peers import PlanPeers
from osai.node.weights.plan_requests import PlanRequests, Request
from osai.node.weights.plan_source import PlanSource

MAX_TICK_S = 1.0  # between two ticks; where it was more, this node was held up, not the others


class ChunkPlan:
    """The chunks that one load of one manifest needs.

    Args:
        my_id: this node's id.
        chunks: of the manifest, numbered by their place.
        held: set of those that are here already.
        no_source: why there is nothing to read from but peers; empty where there is a source.
        blames: of this process.
        now_s: seconds of any steady clock, here and in every event.

    Attributes:
        held: set of the chunks that are here.
    """

    def __init__(
        self,
        config: PlanConfig,
        *,
        my_id: str,
        chunks: Sequence[Chunk],
        held: int,
        no_source: str,
        blames: Blames,
        random: Random,
        now_s: float,
    ) -> None:
        self._config = config
        self._chunks = chunks
        self._blames = blames
        self._random = random
        self.held = held
        self._wanted = self._demanded = 0
        self._peers = PlanPeers(config, my_id, [chunk.sha256 for chunk in chunks], blames, random)
        self._source = PlanSource(config, no_source)
        self._requests = PlanRequests(config, chunks)
        self._idle_s = self._held_back_s = 0.0
        self._ticked_s = self._awake_s = now_s

    @property
    def missing(self) -> int:
        """Chunks that are wanted and not here."""
        return (self._wanted | self._demanded) & ~self.held

    @property
    def sought(self) -> int:
        """Chunks that will be kept once they are here, and are not yet."""
        return self._wanted & ~self.held

    @property
    def fetching(self) -> int:
        """Chunks that are read from the source now."""
        return self._requests.fetching

    def want(self, chunks: int, now_s: float) -> list[Action]:
        """These, and no others any more, are to be fetched and kept, in any order."""
        self._source.leave(chunks & ~self._wanted, now_s + self._config.settle_s)
        self._wanted = chunks
        return self._next(now_s)

    def demand(self, chunk: int, now_s: float) -> list[Action]:
        """Somebody waits for this one: it goes before the others, and is given up when there is no hope for it."""
        self._demanded |= 1 << chunk
        return self._next(now_s)

    def open_source(self, at_s: float) -> None:
        """From this moment on the source may be read: by then others know of this node."""
        self._source.opens_s = at_s

    def met(self, peer: str, now_s: float) -> None:
        """There is a peer that may have chunks, or fetch some: the source is left alone until it has said."""
        self._peers.met(peer, now_s + self._config.hear_s)

    def told(self, peer: str, held: int, sought: int, fetching: int, now_s: float) -> list[Action]:
        """A peer says what it has, seeks, and gets from outside."""
        self._wake(now_s)
        self._peers.told(peer, held, sought, fetching, now_s)
        return self._next(now_s)

    def gone(self, peer: str, now_s: float) -> list[Action]:
        """A peer has left, was revoked, or can't be reached."""
        actions = self._cancel(peer)
        self._peers.forget(peer)
        return [*actions, *self._next(now_s)]

    def found(self, request: int, now_s: float) -> list[Action]:
        """The chunk that was to be asked for has turned up on this machine; nobody is asked."""
        if (ended := self._end(request)) is not None:
            self._here(ended.chunk)
        return self._next(now_s)

    def arrived(self, request: int, sha256: str, now_s: float) -> list[Action]:
        """A request has brought as many bytes as the chunk has, with this digest."""
        self._wake(now_s)
        asked = self._requests.get(request)
        if asked is None:  # it came too late
            return []
        if sha256 != self._chunks[asked.chunk].sha256:
            return self.failed(request, Fault.WRONG, now_s)
        self._end(request)
        view = self._peers.get(asked.peer) if asked.peer is not None else None
        if view is not None:
            view.gave(self._chunks[asked.chunk].size_bytes, now_s - asked.asked_s, self._config)
            self._blames.praise(view.peer)
        self._here(asked.chunk)
        return [Keep(request, asked.chunk), *self._next(now_s)]

    def failed(self, request: int, fault: Fault, now_s: float, reason: str = "") -> list[Action]:
        """A request has brought nothing that can be used; `reason`: what the source said."""
        self._wake(now_s)
        return [*self._fail(request, fault, now_s, reason), *self._next(now_s)]

    def _fail(self, request: int, fault: Fault, now_s: float, reason: str) -> list[Action]:
        asked = self._end(request)
        if asked is None:
            return []
        if asked.peer is None:
            self._source.failed(asked.chunk, reason or f"it {fault.value}", now_s)
            return []
        view = self._peers.get(asked.peer)
        if view is None or not self._peers.failed(view, asked.chunk, fault, now_s):
            return []
        banned = self._blames.is_banned(asked.peer)
        return [Blame(asked.peer, fault, asked.chunk, banned), *(self._cancel(asked.peer) if banned else ())]

    def dropped(self, chunk: int) -> None:
        """A chunk is not here any more: it was damaged, or could not be kept."""
        self.held &= ~(1 << chunk)

    def tick(self, now_s: float) -> list[Action]:
        """Time passes."""
        actions: list[Action] = []
        self._wake(now_s)
        passed_s, self._ticked_s = now_s - self._ticked_s, now_s
        for request in self._requests.overdue(now_s):
            failed = self._fail(request.number, Fault.STALLED, now_s, "it gave nothing in time")
            actions += [Cancel(request.number), *failed]
        self._peers.look_for_lags(self.missing, now_s)
        self._count_waiting(min(passed_s, MAX_TICK_S), now_s)
        return [*actions, *self._next(now_s)]

    def _wake(self, now_s: float) -> None:
        """Where nothing was heard for long, not even a tick, it was this node that was held up."""
        slept_s, self._awake_s = now_s - self._awake_s, now_s
        if slept_s > MAX_TICK_S:
            self._requests.slept(slept_s)
            self._peers.slept(slept_s)

    def _count_waiting(self, passed_s: float, now_s: float) -> None:
        """Others may get something again and again, and so slowly that this node waits for ever; or new ones come."""
        if not self._requests and self.missing & self._peers.awaited():
            self._idle_s += passed_s
        if self._is_held_back(now_s):
            self._held_back_s += passed_s
        if self._idle_s >= self._config.idle_s:
            self._idle_s -= self._config.patience_s
            for view in self._peers.in_charge(self.missing):
                view.passed_over = True

    def _is_held_back(self, now_s: float) -> bool:
        """Whether the source is left alone, since others may be about to read the same; there is an end to that."""
        return self._held_back_s < self._config.patience_s and self._peers.are_unheard(now_s)

    def _next(self, now_s: float) -> list[Action]:
        """Ask for more, as far as there is anyone to ask."""
        actions: list[Action] = []
        while self._requests.num_of_peers < self._config.from_peers:
            missing = self.missing & ~self._requests.asked
            view = self._peers.best_to_ask(missing, now_s) if missing else None
            if view is None:
                break
            view.num_asked += 1
            chunk = self._choose(view.held & missing, rarest=True)
            actions.append(AskPeer(self._requests.add(view.peer, chunk, now_s), view.peer, chunk))
        left = self.missing & ~self._requests.asked & ~self._peers.awaited()
        return [*actions, *(self._next_of_source(left & ~self._peers.available(now_s), now_s) if left else ())]

    def _next_of_source(self, left: int, now_s: float) -> list[Action]:
        """Of the chunks that come from nobody else: read what can be read, and give up what nobody will ever have."""
        actions: list[Action] = []
        readable = 0 if self._is_held_back(now_s) else self._source.readable(left, now_s)
        while readable and self._requests.num_of_source < self._config.from_source:
            chunk = self._choose(readable, rarest=False)
            readable &= ~(1 << chunk)
            actions.append(AskSource(self._requests.add(None, chunk, now_s), chunk))
        forlorn = left & self._demanded & ~self._requests.asked
        for chunk in bits.members(forlorn & ~self._peers.available(now_s, also_slow=True)) if forlorn else ():
            if (reason := self._source.despair(chunk, now_s)) is not None:
                self._demanded &= ~(1 << chunk)
                actions.append(GiveUp(chunk, reason))
        return actions

    def _choose(self, chunks: int, *, rarest: bool) -> int:
        """One of some chunks: that somebody waits for, else a rare one; any of them, so that seekers differ."""
        urgent = chunks & self._demanded
        chosen = urgent or (self._peers.rarest(chunks) if rarest else chunks)
        return bits.next_from(chosen, self._random.randrange(len(self._chunks)))

    def _end(self, number: int) -> Request | None:
        """A request is over; None where it was before."""
        request = self._requests.end(number)
        view = self._peers.get(request.peer) if request is not None and request.peer is not None else None
        if view is not None:
            view.num_asked -= 1
        return request

    def _cancel(self, peer: str) -> list[Action]:
        """End what a peer was asked for."""
        numbers = [request.number for request in self._requests.of(peer)]
        for number in numbers:
            self._end(number)
        return [Cancel(number) for number in numbers]

    def _here(self, chunk: int) -> None:
        self.held |= 1 << chunk
        self._demanded &= ~(1 << chunk)
