"""Looks for nodes that may have the chunks of a load, and hears now and then what they have."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Protocol

from osai.core.errors import OsaiError, ProtocolMismatchError
from osai.core.member_tls import MemberTls
from osai.core.records import NODES_KEY
from osai.node.weights.fetcher import Fetcher
from osai.node.weights.peer_chunks import PeerChunks
from osai.node.weights.seeders import choose, read_seeders

log = logging.getLogger(__name__)

LEAST_LOOKS = 2  # before the source is read: on a busy machine one may take long


class NodeRecords(Protocol):
    """What is needed of osai.core.directory.Directory."""

    async def read(self, key: str) -> Mapping[str, bytes]:
        """Payloads under `key` by member id."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """What a load needs of the node's process.

    Attributes:
        directory: the DHT, once the node has joined it.
        announce: stores the node's record now: it tells which manifest is loaded.
    """

    directory: Callable[[], NodeRecords | None]
    announce: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LookoutConfig:
    """How nodes are looked for.

    Attributes:
        look_s: between looks into the DHT.
        least_look_s: between looks where nodes ask that are not known yet.
        look_s_per_record: at least: checking a record's signature takes 0.1 ms, and holds up the loop.
        poll_s: between two questions to one node.
        rest_s: for which a node is left alone that does not answer.
        settle_s: from the moment at which the record is out until others have looked.
        no_directory_s: without a DHT for so long, the source is read all the same.
        max_silences: questions in a row without an answer, after which nothing is expected of a node.
    """

    look_s: float = 1.0
    least_look_s: float = 0.3
    look_s_per_record: float = 0.005
    poll_s: float = 0.5
    rest_s: float = 3.0
    settle_s: float = 3.0
    no_directory_s: float = 10.0
    max_silences: int = 3


class Lookout:
    """Of one load. `run` it beside the fetcher.

    Args:
        my_id: this node's id.
        manifest_digest: of what is loaded.
        swarm: None where there is none: the source alone is read.
        is_needed: whether any chunk is still missing.
        tls: of this node; None in a public swarm.
    """

    def __init__(
        self,
        config: LookoutConfig,
        my_id: str,
        manifest_digest: bytes,
        fetcher: Fetcher,
        swarm: Swarm | None,
        is_needed: Callable[[], bool],
        tls: MemberTls | None,
        random: Random | None = None,
    ) -> None:
        self._config = config
        self._my_id = my_id
        self._digest = manifest_digest
        self._fetcher = fetcher
        self._swarm = swarm
        self._is_needed = is_needed
        self._tls = tls
        self._random = random or Random()  # noqa: S311 - which nodes are asked
        self._ever: set[str] = set()
        self._stranger = asyncio.Event()
        self._due_s: dict[str, float] = {}
        self._silences: dict[str, int] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def asked(self, node_id: str) -> None:
        """A node asks what is here; it is looked for if it is not known.

        Anybody may say so: it costs no more than a look, and a bounded wait before the source is read.
        """
        if node_id and node_id not in self._fetcher.peers:
            self._fetcher.expect(node_id)
            self._stranger.set()

    async def run(self) -> None:
        """Look and ask until cancelled."""
        with self._tls.subscribed(self._leave_revoked) if self._tls else nullcontext():
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._poll())
                    group.create_task(self._look())
            finally:
                for task in self._asking.values():
                    task.cancel()
                await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _look(self) -> None:
        directory = await self._found_directory()
        if directory is None:
            self._fetcher.open_source()
            log.info("this node is in no DHT yet: its weights come from their source alone so far")
        while directory is None:
            await asyncio.sleep(self._config.look_s)
            directory = self._swarm.directory() if self._swarm else None
        if self._swarm is not None:
            await self._swarm.announce()
        config, opens_s, num_looks = self._config, time.monotonic() + self._config.settle_s, 0
        while True:
            num_records, num_looks = await self._look_once(directory), num_looks + 1
            if time.monotonic() >= opens_s and num_looks >= LEAST_LOOKS:
                self._fetcher.open_source()
                opens_s = float("inf")
            slow_s = config.look_s_per_record * num_records
            await asyncio.sleep(max(config.least_look_s, slow_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(config.look_s - config.least_look_s):
                    await self._stranger.wait()
            self._stranger.clear()

    async def _found_directory(self) -> NodeRecords | None:
        until_s = time.monotonic() + self._config.no_directory_s
        while self._swarm is not None and time.monotonic() < until_s:
            if (directory := self._swarm.directory()) is not None:
                return directory
            await asyncio.sleep(0.1)
        return None

    async def _look_once(self, directory: NodeRecords) -> int:
        try:
            payloads = await directory.read(NODES_KEY)
        except OsaiError as e:
            log.info("no look for nodes that have the weights: %s", e)
            return 0
        found = read_seeders(payloads, self._digest, self._my_id, self._is_revoked)
        known = {peer: each.address for peer, each in self._fetcher.peers.items()}
        chosen = choose(found, known, self._ever, self._random)
        self._ever |= chosen.keys()
        self._fetcher.meet(chosen)
        return len(payloads)

    async def _poll(self) -> None:
        while True:
            now_s = time.monotonic()
            for peer, chunks in list(self._fetcher.peers.items()) if self._is_needed() else ():
                if peer not in self._asking and now_s >= self._due_s.get(peer, 0.0):
                    task = self._asking[peer] = asyncio.create_task(self._ask(chunks))
                    task.add_done_callback(partial(self._asked, peer))
            await asyncio.sleep(self._config.poll_s / 4)

    def _asked(self, peer: str, _: asyncio.Task[None]) -> None:
        self._asking.pop(peer, None)

    async def _ask(self, chunks: PeerChunks) -> None:
        peer, config = chunks.peer, self._config
        try:
            await self._fetcher.ask(chunks, self._my_id)
        except OsaiError as e:
            log.debug("node %s does not say what it has: %s", peer, e)
            never = isinstance(e, ProtocolMismatchError)  # it gives none, or is older
            silences = self._silences[peer] = self._silences.get(peer, 0) + 1
            self._due_s[peer] = float("inf") if never else time.monotonic() + config.rest_s
            if silences == config.max_silences:
                self._fetcher.silent(peer)
        else:
            self._silences[peer], self._due_s[peer] = 0, time.monotonic() + config.poll_s

    def _is_revoked(self, node_id: str) -> bool:
        return self._tls is not None and self._tls.is_revoked(node_id)

    def _leave_revoked(self) -> None:
        for peer in list(self._fetcher.peers):
            if self._is_revoked(peer):
                log.warning("node %s is revoked, and asked for weights no more", peer)
                self._fetcher.leave(peer)
