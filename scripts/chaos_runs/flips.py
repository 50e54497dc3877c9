"""One byte flipped, try after try: on disk, in a peer's chunk, in transit. None of them may reach a tensor."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from scripts.chaos_runs.flip_peers import Away, KnownRecords, flipping_line, flipping_peer, honest_peer

from osai.client.signing import build_manifest
from osai.core.errors import WeightsError
from osai.core.layers import LayerRange
from osai.core.manifest import SignedManifest, parse, unsigned
from osai.node.weights.cache import ChunkCache, Hashed
from osai.node.weights.lookout import LookoutConfig, Swarm
from osai.node.weights.plan_actions import PlanConfig
from osai.node.weights.source import open_source
from osai.node.weights.spread import Origin, Spread
from osai.node.weights.verified import VerifiedCheckpoint

CHUNK_BYTES = 64 * 2**10
NUM_AT_ONCE = 16
MAX_ASKS = 8  # tries until the bad peer is asked for once: the honest source may be quicker
TRY_DEADLINE_S = 60.0
NAME = "model.layers.0.mlp.up_proj.weight"
PLAN = PlanConfig(settle_s=0.3, patience_s=1.0, deadline_s=5.0, source_deadline_s=5.0, rest_s=0.1, max_rest_s=0.3)
LOOKS = LookoutConfig(look_s=0.1, poll_s=0.1, settle_s=0.3, rest_s=0.3, no_directory_s=0.5)


@dataclass(slots=True, kw_only=True)
class Flipped:
    """What came of one way of flipping.

    Attributes:
        way: where the byte was flipped.
        num_tries: with one flipped byte each, or more where a peer flips one in each chunk.
        num_blamed: after which the sender was blamed; on disk: after which the bad bytes were gone.
        num_refetched: after which the right bytes had come from elsewhere.
        wrong: what should not be: a tensor with other bytes, an error of another kind.
    """

    way: str
    num_tries: int = 0
    num_blamed: int = 0
    num_refetched: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether each flipped byte was refused, blamed on its sender, and fetched again from elsewhere."""
        return not self.wrong and self.num_blamed == self.num_refetched == self.num_tries


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The model of which bytes are flipped, and where loads run.

    Attributes:
        folder: holds it, unharmed.
        scratch: for caches and harmed copies.
        threads: that wait for bytes: as many as there are tries at once.
    """

    folder: Path
    scratch: Path
    signed: SignedManifest
    expected: torch.Tensor
    threads: ThreadPoolExecutor

    async def read(self, source: object) -> torch.Tensor:
        """The tensor, as a node reads it."""
        checkpoint = VerifiedCheckpoint(source, self.signed)  # type: ignore[arg-type]
        work = asyncio.get_running_loop().run_in_executor(self.threads, lambda: checkpoint.tensor(NAME)[...])
        return await asyncio.wait_for(work, TRY_DEADLINE_S)

    async def load(self, spread: Spread, source: Away) -> torch.Tensor:
        """The tensor, by way of a cache, peers and a source."""
        async with spread.loading("chaos/flips", self.signed, Origin(source=source), LayerRange(0, 1)) as taking:
            taking.want((NAME,))
            return await self.read(taking.source)


async def flip(way: str, *, seed: int, count: int) -> Flipped:
    """Flip a byte in `count` tries, each drawn by the seed and its number."""
    told, room = Flipped(way=way), asyncio.Semaphore(NUM_AT_ONCE)

    async def one(site: Site, number: int) -> None:
        async with room:
            told.num_tries += 1
            name = f"{way} --seed {seed}, try {number}"
            try:
                blamed, refetched = await WAYS[way](site, Random(name), number)  # noqa: S311 - not for secrets
                told.num_blamed += blamed
                told.num_refetched += refetched
            except Exception as e:  # noqa: BLE001 - that there is none is what is to be shown
                told.wrong.append(f"{name}: {type(e).__name__}: {e}")

    with tempfile.TemporaryDirectory(prefix="osai-flips-") as scratch, ThreadPoolExecutor(NUM_AT_ONCE) as threads:
        site = await asyncio.to_thread(_site, Path(scratch), threads)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(site, number))
    return told


def _site(scratch: Path, threads: ThreadPoolExecutor) -> Site:
    from safetensors.torch import save_file  # noqa: PLC0415 - only flips make a checkpoint

    folder = scratch / "model"
    folder.mkdir()
    expected = torch.arange(3 * CHUNK_BYTES // 8, dtype=torch.float32)  # a chunk and a half
    save_file({NAME: expected}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"num_hidden_layers": 1}')
    signed = parse(unsigned(build_manifest(folder, "chaos/flips", 1, "mit", chunk_bytes=CHUNK_BYTES)))
    return Site(folder=folder, scratch=scratch, signed=signed, expected=expected, threads=threads)


async def _on_disk(site: Site, random: Random, number: int) -> tuple[bool, bool]:
    """In a model's folder, which nothing can replace: refused. In the cache: dropped, and fetched anew."""
    chunk = random.choice(site.signed.manifest.chunks_of(site.signed.manifest.tensors[0]))
    at, mask = random.randrange(chunk.size_bytes), 1 << random.randrange(8)
    harmed = site.scratch / f"harmed-{number}"
    await asyncio.to_thread(_harm, site, harmed, chunk.begin + at, mask)
    try:
        await site.read(open_source(str(harmed)))
    except WeightsError as e:
        refused = e.subject == NAME and "differs" in e.message
    else:
        raise AssertionError("a folder's flipped byte was taken")
    cache, source = ChunkCache(site.scratch / f"cache-{number}", 2**30), Away(site.folder)
    for one in site.signed.manifest.chunks_of(site.signed.manifest.tensors[0]):
        data = Away(site.folder).read(one.file, one.begin, one.end)
        cache.put(Hashed(data))
        if one == chunk:
            data[at] ^= mask
            (cache.folder / one.sha256[:2] / one.sha256).write_bytes(data)
    loaded = await site.load(Spread("me", cache, plan=PLAN, lookout=LOOKS), source)
    _check(site, loaded)
    kept = cache.read(chunk.sha256)
    gone = kept is not None and Hashed(kept).sha256 == chunk.sha256
    return refused and gone, source.num_bytes == chunk.size_bytes


def _harm(site: Site, folder: Path, at: int, mask: int) -> None:
    folder.mkdir()
    data = bytearray((site.folder / "model.safetensors").read_bytes())
    data[at] ^= mask
    (folder / "model.safetensors").write_bytes(data)


async def _in_a_peers_chunk(site: Site, random: Random, _: int) -> tuple[bool, bool]:
    for _ in range(MAX_ASKS):
        async with flipping_peer(site.signed, site.folder, random) as peer:
            blamed, source = await _load_beside(site, peer.address)
            if peer.num_flipped:
                return blamed, source.num_bytes > 0
    raise AssertionError("the bad peer was never asked")


async def _in_transit(site: Site, random: Random, _: int) -> tuple[bool, bool]:
    for _ in range(MAX_ASKS):
        async with honest_peer(site.signed, site.folder) as address, flipping_line(address, random) as line:
            blamed, source = await _load_beside(site, line.address)
            if line.num_flipped:
                return blamed, source.num_bytes > 0
    raise AssertionError("no chunk came over the bad line")


async def _load_beside(site: Site, address: str) -> tuple[bool, Away]:
    """Load where one peer has everything, and a source too; whether the peer was blamed, and the source."""
    records, source = KnownRecords(), Away(site.folder)
    records.add("b" * 32, address, site.signed.digest)
    spread = Spread("a" * 32, None, plan=PLAN, lookout=LOOKS)

    async def announce() -> None:
        """Nobody asks this node for anything."""

    spread.swarm = Swarm(directory=lambda: records, announce=announce)
    _check(site, await site.load(spread, source))
    return spread.blames.num_blames > 0, source


def _check(site: Site, loaded: torch.Tensor) -> None:
    if not torch.equal(loaded, site.expected):
        raise AssertionError("a tensor has other bytes than its publisher signed")


WAYS: dict[str, Callable[[Site, Random, int], Awaitable[tuple[bool, bool]]]] = {
    "on disk": _on_disk,
    "in a peer's chunk": _in_a_peers_chunk,
    "in transit": _in_transit,
}
