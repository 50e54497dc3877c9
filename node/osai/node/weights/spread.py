"""Weights from anywhere: what the node's other parts see of caching and of getting chunks from other nodes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

from osai.core.layers import LayerRange
from osai.core.manifest import SignedManifest
from osai.core.member_tls import MemberTls
from osai.node.weights.blames import Blames
from osai.node.weights.cache import ChunkCache
from osai.node.weights.chunk_plan import ChunkPlan
from osai.node.weights.chunk_table import ChunkTable
from osai.node.weights.fetcher import Fetcher
from osai.node.weights.getting import Getting
from osai.node.weights.lookout import Lookout, LookoutConfig, Swarm
from osai.node.weights.plan_actions import PlanConfig
from osai.node.weights.source import CheckpointSource, LocalFolder
from osai.node.weights.spread_source import SpreadSource
from osai.node.weights.stock import Offer, Stock

log = logging.getLogger(__name__)

AHEAD_SHARE = 0.9  # of the cache: a span that takes more is fetched as it is read, or its end would drive out its start


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a load's bytes come from if no node has them.

    Attributes:
        source: None where there is no such place.
        absent: why not.
    """

    source: CheckpointSource | None
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """A load that goes on.

    Attributes:
        source: to be read.
        want: tells which tensors will be read, so that they are fetched ahead.
    """

    source: CheckpointSource
    want: Callable[[Iterable[str]], None]


class Spread:
    """Of one node process. All of it runs on the loop.

    Args:
        my_id: this node's id.
        cache: None where nothing is kept.
        tls: of this node; None in a public swarm.
        gives: whether others may fetch from this node.

    Attributes:
        stock: what is given to others.
        blames: of this process.
        swarm: set once there is one.
    """

    def __init__(
        self,
        my_id: str,
        cache: ChunkCache | None = None,
        tls: MemberTls | None = None,
        *,
        gives: bool = False,
        plan: PlanConfig | None = None,
        lookout: LookoutConfig | None = None,
    ) -> None:
        self._my_id = my_id
        self._cache = cache
        self._tls = tls
        self._gives = gives
        self._plan_config, self._lookout_config = plan or PlanConfig(), lookout or LookoutConfig()
        self._digests: dict[str, bytes] = {}
        self.stock = Stock(cache)
        self.blames = Blames()
        self.swarm: Swarm | None = None

    def digest_of(self, model_id: str) -> bytes:
        """Of the manifest by which a model is loaded or served; empty where none is."""
        return self._digests.get(model_id, b"")

    def release(self, model_id: str) -> None:
        """A model is served no more: nor are its chunks given."""
        self.stock.remove(self._digests.pop(model_id, b""))

    @asynccontextmanager
    async def loading(
        self, model_id: str, signed: SignedManifest, origin: Origin, layers: LayerRange, files: Iterable[str] = ()
    ) -> AsyncIterator[Taking]:
        """Get a model's chunks for as long as the block runs; they are given to others until it is released.

        Its layers' tensors are sought from the start, and `files` that will be read whole.
        """
        gives = self._gives and (self._tls is not None or not signed.manifest.licence_must_accept)
        folder = origin.source if isinstance(origin.source, LocalFolder) else None
        table = await asyncio.to_thread(ChunkTable, signed)
        offer = Offer(table=table, folder=folder, gives=gives)
        self.stock.looked(offer, await asyncio.to_thread(self.stock.look, offer))
        self.stock.add(offer)
        self._digests[model_id] = signed.digest
        try:
            if folder is not None:
                yield Taking(source=folder, want=lambda _: None)
            else:
                async with self._taking(offer, origin, table.of_files(files)) as taking:
                    taking.want(t.name for t in signed.manifest.tensors if t.layer is not None and t.layer in layers)
                    yield taking
        except BaseException:
            self.release(model_id)
            raise

    @asynccontextmanager
    async def _taking(self, offer: Offer, origin: Origin, files: int) -> AsyncIterator[Taking]:
        plan = self._plan(offer, origin.absent)
        offer.plan, offer.seeks = plan, self._cache is not None
        getting = Getting(self._cache, origin.source, self._tls)
        fetcher = Fetcher(offer, plan, getting, self._cache)
        lookout = Lookout(
            self._lookout_config,
            self._my_id,
            offer.table.manifest_digest,
            fetcher,
            self.swarm,
            lambda: plan.missing != 0,
            self._tls,
        )
        if self._cache is not None:
            await asyncio.to_thread(lambda: self._cache and self._cache.max_bytes)  # it may have to look for it
        offer.on_asked = lookout.asked
        async with fetcher:
            looking = asyncio.create_task(lookout.run())
            try:
                source = SpreadSource(offer.table, self._cache, fetcher, origin.source)
                yield Taking(source=source, want=lambda names: self._want(offer.table, fetcher, names, files))
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
                offer.plan = offer.on_asked = None
        tally = fetcher.tally
        log.info("of the weights, %.1f MiB came from other nodes and %.1f MiB from %s; %d times a node was blamed",
                 tally.peer_bytes / 2**20, tally.source_bytes / 2**20,
                 origin.source.describe() if origin.source else "elsewhere", tally.num_blames)  # fmt: skip

    def _plan(self, offer: Offer, no_source: str) -> ChunkPlan:
        return ChunkPlan(
            self._plan_config,
            my_id=self._my_id,
            chunks=offer.table.chunks,
            held=offer.held,
            no_source=no_source,
            blames=self.blames,
            random=Random(),  # noqa: S311 - so that seekers differ
            now_s=time.monotonic(),
        )

    def _want(self, table: ChunkTable, fetcher: Fetcher, names: Iterable[str], files: int) -> None:
        if self._cache is None:
            return
        chunks = table.of_tensors(names) | files
        fits = table.num_bytes(chunks) <= AHEAD_SHARE * self._cache.max_bytes
        fetcher.want(chunks if fits else 0)
