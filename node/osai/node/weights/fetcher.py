"""The shell around a chunk plan: asks peers and the source as the plan says, and hands out what has proved right."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from osai.core.errors import OsaiError, WeightsError
from osai.core.manifest import Chunk
from osai.node.weights.blames import Fault
from osai.node.weights.cache import ChunkCache, Hashed
from osai.node.weights.chunk_plan import ChunkPlan
from osai.node.weights.getting import Getting
from osai.node.weights.peer_chunks import PeerChunks, PeerFaultError
from osai.node.weights.plan_actions import Action, AskPeer, AskSource, Blame, Cancel, GiveUp, Keep
from osai.node.weights.stock import Offer
from osai.node.weights.waiters import Waiter, Waiters

log = logging.getLogger(__name__)

TICK_S = 0.25


@dataclass(slots=True, kw_only=True)
class Tally:
    """Bytes that have come, and how often a peer was blamed; for people."""

    peer_bytes: int = 0
    source_bytes: int = 0
    num_blames: int = 0


class Fetcher:
    """Runs one plan. Use it as an async context manager; all of it runs on the loop.

    Args:
        offer: what others are told of.
        plan: of the same chunks.
        getting: the ways to a chunk.
        cache: keeps what comes; None keeps nothing.
        clock_s: seconds of a steady clock, as the plan's.

    Attributes:
        tally: what has come.
    """

    def __init__(
        self,
        offer: Offer,
        plan: ChunkPlan,
        getting: Getting,
        cache: ChunkCache | None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._offer, self._plan = offer, plan
        self._getting, self._cache = getting, cache
        self._clock_s = clock_s
        self._asked: dict[int, asyncio.Task[None]] = {}
        self._brought: dict[int, Hashed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters = Waiters()
        self._over = False
        self.tally = Tally()

    async def __aenter__(self) -> Self:
        self._spawn(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        self._waiters.fail_all(_ended())
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._getting.close()

    @property
    def peers(self) -> Mapping[str, PeerChunks]:
        """Those that are known, by id."""
        return self._getting.peers

    def meet(self, seeders: Mapping[str, str]) -> None:
        """These, by id, are the nodes that may have chunks now, and their addresses."""
        for peer in [peer for peer, known in self.peers.items() if seeders.get(peer) != known.address]:
            self.leave(peer)
        for peer, address in seeders.items():
            if peer not in self.peers:
                self._getting.add(peer, address)
                self._plan.met(peer, self._clock_s())

    def expect(self, peer: str) -> None:
        """A node that is not known yet may fetch the same chunks: it will be met soon."""
        self._plan.met(peer, self._clock_s())

    def leave(self, peer: str) -> None:
        """A node is not there any more, or not to be heard."""
        known = self._getting.peers.pop(peer, None)
        if known is not None:
            self.silent(peer)
            self._spawn(known.close())

    def silent(self, peer: str) -> None:
        """A node does not answer: nothing is expected of it until it does."""
        self._perform(self._plan.gone(peer, self._clock_s()))

    async def ask(self, peer: PeerChunks, my_id: str) -> None:
        """Hear what a peer has, and tell it who asks.

        Raises:
            OsaiError: if it does not say.
        """
        has = await peer.have(self._offer.table, my_id)
        if self.peers.get(peer.peer) is peer:
            self._perform(self._plan.told(peer.peer, has.held, has.sought, has.fetching, self._clock_s()))

    def want(self, chunks: int) -> None:
        """Fetch these ahead, and no others."""
        self._perform(self._plan.want(chunks, self._clock_s()))

    def open_source(self) -> None:
        """The other nodes know of this one now."""
        self._plan.open_source(self._clock_s())

    def demand(self, number: int, waiter: Waiter) -> None:
        """Somebody waits for a chunk, which is not in the cache, or damaged there."""
        if self._over:
            waiter.set_exception(_ended())
            return
        self._waiters.add(number, waiter)
        if not self._offer.arriving >> number & 1:  # else it is being written, and comes at once
            self._plan.dropped(number)
            self._offer.lost(number)
            self._perform(self._plan.demand(number, self._clock_s()))

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case AskPeer() | AskSource():
                    task = self._asked[action.request] = self._spawn(self._ask(action))
                    task.add_done_callback(partial(self._answered, action.request))
                case Cancel() if action.request in self._asked:
                    self._asked.pop(action.request).cancel()
                case Keep():
                    self._offer.arriving |= 1 << action.chunk
                    self._spawn(self._keep(action.chunk, self._brought.pop(action.request)))
                case Blame():
                    self._blame(action)
                case GiveUp():
                    self._waiters.fail(action.chunk, _hopeless(self._chunk(action.chunk), action.reason))

    def _answered(self, request: int, _: asyncio.Task[None]) -> None:
        self._asked.pop(request, None)

    async def _ask(self, action: AskPeer | AskSource) -> None:
        request, chunk = action.request, self._chunk(action.chunk)
        try:
            if (found := await self._getting.in_cache(chunk)) is not None:
                self._found(action, found)
            elif isinstance(action, AskPeer):
                self._arrived(action, await self._getting.from_peer(action.peer, chunk))
            else:
                self._arrived(action, await self._getting.from_source(chunk))
        except OsaiError as e:
            fault = e.fault if isinstance(e, PeerFaultError) else Fault.GONE
            log.debug("chunk %s did not come: %s", chunk.sha256[:12], e)
            self._perform(self._plan.failed(request, fault, self._clock_s(), e.message))
        except Exception as e:
            log.exception("asking for chunk %s failed", chunk.sha256[:12])
            self._perform(self._plan.failed(request, Fault.GONE, self._clock_s(), f"{type(e).__name__}: {e}"))

    def _found(self, action: AskPeer | AskSource, found: Hashed) -> None:
        self._offer.written(action.chunk, kept=True)
        self._perform(self._plan.found(action.request, self._clock_s()))
        self._waiters.give(action.chunk, found.data)

    def _arrived(self, action: AskPeer | AskSource, brought: Hashed) -> None:
        self._brought[action.request] = brought
        self._perform(self._plan.arrived(action.request, brought.sha256, self._clock_s()))
        if self._brought.pop(action.request, None) is not None:  # it was not right, or too late
            return
        if isinstance(action, AskPeer):
            self.tally.peer_bytes += len(brought.data)
        else:
            self.tally.source_bytes += len(brought.data)

    async def _keep(self, number: int, hashed: Hashed) -> None:
        """Write a right chunk, then hand it out: whoever gets it may change its memory."""
        kept = False
        try:
            kept = self._cache is not None and await asyncio.to_thread(self._cache.put, hashed)
        except Exception:  # whoever waits gets the chunk all the same, and not a timeout a quarter of an hour later
            log.exception("chunk %s could not be kept", hashed.sha256[:12])
        self._offer.written(number, kept=kept)
        if not kept:
            self._plan.dropped(number)
            self.want(0)  # nothing is fetched ahead that can't be kept
        self._waiters.give(number, hashed.data)

    def _blame(self, blame: Blame) -> None:
        self.tally.num_blames += 1
        what, then = self._chunk(blame.chunk).sha256[:12], "; it is asked no more" if blame.banned else ""
        log.warning("node %s %s (chunk %s)%s", blame.peer, blame.fault.value, what, then)

    def _chunk(self, number: int) -> Chunk:
        return self._offer.table.chunks[number]

    async def _tick(self) -> None:
        try:
            while True:
                await asyncio.sleep(TICK_S)
                self._perform(self._plan.tick(self._clock_s()))
        except Exception:  # the edge of a task; without it whoever waits would wait for ever
            log.exception("fetching weights has failed")
            self._over = True
            self._waiters.fail_all(_broken())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _ended() -> WeightsError:
    return WeightsError("the load that this chunk is of has ended")


def _broken() -> WeightsError:
    return WeightsError(
        "fetching chunks from other nodes has failed in this node, see its log: load again, or report it"
    )


def _hopeless(chunk: Chunk, reason: str) -> WeightsError:
    where = f"bytes [{chunk.begin}, {chunk.end}) of {chunk.file}"
    return WeightsError(
        f"no node of the swarm gives {where}, and {reason}; name a folder, hub id or URL that has them with --weights, "
        "or start a node that has them",
        subject=chunk.file,
    )
