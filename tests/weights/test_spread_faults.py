"""One node loads, over real gRPC, while something is wrong: right bytes come from elsewhere, or a typed error does."""

import asyncio
import logging
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import torch

from osai.core.admission import Role
from osai.core.errors import WeightsError
from osai.core.manifest import SignedManifest
from osai.node.weights import peer_chunks
from osai.node.weights.cache import ChunkCache, Hashed
from osai.node.weights.chunk_plan import ChunkPlan
from osai.node.weights.chunk_table import ChunkTable
from osai.node.weights.plan_actions import Action
from osai.node.weights.source import LocalFolder
from osai.node.weights.spread import Origin
from private.swarm_members import PrivateSwarm
from weights.spread_nodes import (
    NAMES,
    BadService,
    CountedSource,
    Far,
    Records,
    make_checkpoint,
    node,
    serving,
)

ROOM = 100 * 2**20
BLAMED = [
    "flips a byte", "sends too much", "sends another chunk", "closes half way", "breaks half way", "stalls",
    "never answers", "does not have it", "sends nothing for ever",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SignedManifest]:
    folder = tmp_path_factory.mktemp("large")
    return folder, make_checkpoint(folder)


@pytest.fixture(autouse=True)
def quick_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_chunks, "PART_DEADLINE_S", 0.4)


def assert_right(loaded: dict[str, torch.Tensor]) -> None:
    for i, name in enumerate(NAMES):
        assert torch.equal(loaded[name], torch.arange(len(loaded[name]), dtype=torch.float32) + 10**6 * i)


async def test_whoever_waits_is_told_when_the_plan_itself_fails(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: ChunkPlan, __: float) -> list[Action]:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(ChunkPlan, "tick", fails)
    async with node("a", Records(), ChunkCache(tmp_path / "cache", ROOM)) as joiner, asyncio.timeout(20):
        with pytest.raises(WeightsError, match="has failed in this node"):
            await joiner.load(checkpoint[1], Origin(source=None, absent="there is no source"))


@pytest.mark.parametrize("kind", BLAMED)
async def test_a_peer_that_fails_is_blamed_and_right_bytes_come_from_the_source(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, signed = checkpoint
    records, bad = Records(), BadService(signed, folder, kind)
    async with serving(bad) as address, node("me", records, ChunkCache(tmp_path, ROOM)) as me:
        records.add("bad", address, signed.digest)
        source = CountedSource(folder)
        assert_right(await me.load(signed, Origin(source=Far(source))))
        assert me.spread.blames.num_blames >= 1
        assert "node bad " in caplog.text
        if kind in {"flips a byte", "sends too much", "sends another chunk"}:
            assert me.spread.blames.is_banned("bad")
            assert len(bad.asked) <= 2  # those that were out together
            bad.asked.clear()
            for one in list(me.cache.kept() if me.cache else ()):
                me.cache.drop(one.sha256) if me.cache else None
            assert_right(await me.load(signed, Origin(source=Far(source))))
            assert not bad.asked  # not in this process


@pytest.mark.parametrize("kind", BLAMED)
async def test_where_there_is_no_other_place_the_error_says_what_to_do(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path, kind: str
) -> None:
    folder, signed = checkpoint
    records = Records()
    async with serving(BadService(signed, folder, kind)) as address, node("me", records, None) as me:
        records.add("bad", address, signed.digest)
        with pytest.raises(WeightsError, match=r"nobody knows where.*--weights") as caught:
            await me.load(signed, Origin(source=None, absent="nobody knows where"))
        assert caught.value.subject


async def test_a_have_that_can_not_be_is_no_have(checkpoint: tuple[Path, SignedManifest], tmp_path: Path) -> None:
    folder, signed = checkpoint
    records, bad = Records(), BadService(signed, folder, "impossible have")
    async with serving(bad) as address, node("me", records, ChunkCache(tmp_path, ROOM)) as me:
        records.add("bad", address, signed.digest)
        assert_right(await me.load(signed, Origin(source=Far(CountedSource(folder)))))
        assert not bad.asked


async def test_chunks_come_from_a_node_that_has_them_in_a_folder_and_the_source_gives_none(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path
) -> None:
    folder, signed = checkpoint
    records, source = Records(), CountedSource(folder)
    cache = ChunkCache(tmp_path / "cache", ROOM)
    async with node("holder", records, None) as holder, node("me", records, cache) as me:
        assert_right(await holder.load(signed, Origin(source=LocalFolder(folder))))
        assert_right(await me.load(signed, Origin(source=Far(source))))
        assert source.num_bytes == 0
        assert holder.service.num_bytes >= sum(entry.size_bytes for entry in signed.manifest.tensors)
        assert not list((tmp_path / "cache").rglob("*.tmp"))
        assert sum(one.size_bytes for one in cache.kept()) == holder.service.num_bytes


async def test_without_a_cache_chunks_come_from_peers_as_they_are_read(
    checkpoint: tuple[Path, SignedManifest],
) -> None:
    folder, signed = checkpoint
    records, source = Records(), CountedSource(folder)
    async with node("holder", records, None) as holder, node("me", records, None) as me:
        await holder.load(signed, Origin(source=LocalFolder(folder)))
        assert_right(await me.load(signed, Origin(source=Far(source))))
        assert source.num_bytes == 0


async def test_a_cache_smaller_than_the_span_is_no_hindrance(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path
) -> None:
    folder, signed = checkpoint
    cache = ChunkCache(tmp_path, 300_000)
    async with node("me", Records(), cache) as me:
        assert_right(await me.load(signed, Origin(source=Far(CountedSource(folder)))))
        assert sum(one.size_bytes for one in cache.kept()) <= 300_000


async def test_after_a_restart_what_was_verified_is_not_fetched_again(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path
) -> None:
    folder, signed = checkpoint
    cache, source, table = ChunkCache(tmp_path, ROOM), CountedSource(folder), ChunkTable(signed)
    async with node("me", Records(), cache) as me:
        await me.load(signed, Origin(source=Far(source)))
    removed = [chunk for chunk in table.chunks if chunk.file.endswith("safetensors")][:3]
    for chunk in removed:
        cache.drop(chunk.sha256)
    source.num_bytes = 0
    async with node("me", Records(), ChunkCache(tmp_path, ROOM)) as me:
        assert_right(await me.load(signed, Origin(source=Far(source))))
    assert source.num_bytes == sum(chunk.size_bytes for chunk in removed)


async def test_a_byte_that_flips_on_disk_is_noticed_and_the_chunk_fetched_anew(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path
) -> None:
    folder, signed = checkpoint
    cache, source, table = ChunkCache(tmp_path, ROOM), CountedSource(folder), ChunkTable(signed)
    async with node("me", Records(), cache) as me:
        await me.load(signed, Origin(source=Far(source)))
    bad = [chunk for chunk in table.chunks if chunk.file.endswith("safetensors")][::5]
    for i, chunk in enumerate(bad):
        path = tmp_path / chunk.sha256[:2] / chunk.sha256
        data = bytearray(path.read_bytes())
        if i == 0:
            del data[-1]  # cut short
        else:
            data[i] ^= 4
        path.write_bytes(data)
    source.num_bytes = 0
    async with node("me", Records(), ChunkCache(tmp_path, ROOM)) as me:
        assert_right(await me.load(signed, Origin(source=Far(source))))
    assert source.num_bytes == sum(chunk.size_bytes for chunk in bad)
    assert all((tmp_path / c.sha256[:2] / c.sha256).stat().st_size == c.size_bytes for c in bad)


async def test_a_damaged_chunk_is_given_to_nobody(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, signed = checkpoint
    records, source = Records(), CountedSource(folder)
    holders = ChunkCache(tmp_path / "a", ROOM)
    async with node("holder", records, holders) as holder, node("me", records, ChunkCache(tmp_path / "b", ROOM)) as me:
        await holder.load(signed, Origin(source=Far(source)))
        damaged = next(one for one in holders.kept() if one.size_bytes > 1000)
        path = holders.folder / damaged.sha256[:2] / damaged.sha256
        path.write_bytes(bytes(damaged.size_bytes))
        source.num_bytes = 0
        assert_right(await me.load(signed, Origin(source=Far(source))))
        assert source.num_bytes == damaged.size_bytes
        assert not path.exists()
        assert "given to nobody" in caplog.text
        assert not me.spread.blames.is_banned("holder")


async def test_a_source_that_gives_a_wrong_byte_is_refused_by_its_name(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path
) -> None:
    folder, signed = checkpoint
    first = signed.manifest.tensors[0]
    source = CountedSource(folder, change_at=first.begin + 5)
    async with node("me", Records(), ChunkCache(tmp_path, ROOM)) as me:
        with pytest.raises(WeightsError, match=r"sent bytes that are not the chunk's.*--weights"):
            await me.load(signed, Origin(source=Far(source)))


async def test_a_source_that_is_down_is_no_hindrance_where_a_node_has_the_chunks(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path
) -> None:
    folder, signed = checkpoint
    records = Records()
    async with node("holder", records, None) as holder, node("me", records, ChunkCache(tmp_path, ROOM)) as me:
        await holder.load(signed, Origin(source=LocalFolder(folder)))
        assert_right(await me.load(signed, Origin(source=Far(CountedSource(folder, is_down=True)))))


async def test_a_node_stops_waiting_at_once_when_its_load_is_ended(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path
) -> None:
    folder, signed = checkpoint
    records = Records()
    async with (
        serving(BadService(signed, folder, "never answers")) as address,
        node("me", records, ChunkCache(tmp_path, ROOM)) as me,
    ):
        records.add("bad", address, signed.digest)
        load = asyncio.create_task(me.load(signed, Origin(source=None, absent="no")))
        await asyncio.sleep(0.3)
        load.cancel()
        before_s = time.monotonic()
        await asyncio.gather(load, return_exceptions=True)
        assert time.monotonic() - before_s < 2.0
        assert me.spread.digest_of("me/large") == b""


@pytest.mark.parametrize("is_private", [True, False])
async def test_members_of_private_and_public_swarms_give_to_each_other(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path, is_private: bool
) -> None:
    folder, signed = checkpoint
    swarm, records, source = PrivateSwarm(), Records(), CountedSource(folder)
    tls = [swarm.join(Role.NODE) if is_private else None for _ in range(2)]
    names = [each.me.member_id if each else f"node-{i}" for i, each in enumerate(tls)]
    async with (
        node(names[0], records, None, tls[0]) as holder,
        node(names[1], records, ChunkCache(tmp_path, ROOM), tls[1]) as me,
    ):
        await holder.load(signed, Origin(source=LocalFolder(folder)))
        assert_right(await me.load(signed, Origin(source=Far(source))))
    assert source.num_bytes == 0


async def test_a_revoked_node_neither_gives_nor_gets(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder, signed = checkpoint
    swarm, records, source = PrivateSwarm(), Records(), CountedSource(folder)
    holders, mine = swarm.join(Role.NODE), swarm.join(Role.NODE)
    async with (
        node(holders.me.member_id, records, None, holders) as holder,
        node(mine.me.member_id, records, ChunkCache(tmp_path / "a", ROOM), mine) as me,
    ):
        await holder.load(signed, Origin(source=LocalFolder(folder)))
        mine.revoke(swarm.revoked(holders))
        assert_right(await me.load(signed, Origin(source=Far(source))))
        assert source.num_bytes >= sum(entry.size_bytes for entry in signed.manifest.tensors)
        assert holder.service.num_bytes == 0
        # and it gets nothing: its own certificate is refused where it dials
        before = me.service.num_bytes
        holder.spread.release("me/large")
        with pytest.raises(WeightsError, match="no other place"):
            await holder.load(signed, Origin(source=None, absent="no other place"))
        assert me.service.num_bytes == before


async def test_who_is_revoked_while_it_gives_is_left_at_once(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, signed = checkpoint
    swarm, records, source = PrivateSwarm(), Records(), CountedSource(folder)
    holders, mine = swarm.join(Role.NODE), swarm.join(Role.NODE)
    bad = BadService(signed, folder, "never answers")
    async with (
        serving(bad, holders) as address,
        node(mine.me.member_id, records, ChunkCache(tmp_path, ROOM), mine) as me,
    ):
        records.add(holders.me.member_id, address, signed.digest)
        load = asyncio.create_task(me.load(signed, Origin(source=Far(source))))
        async with asyncio.timeout(5):
            while not bad.asked:  # noqa: ASYNC110 - a server's list
                await asyncio.sleep(0.01)
        mine.revoke(swarm.revoked(holders))
        assert_right(await load)
    assert f"node {holders.me.member_id} is revoked" in caplog.text


async def test_a_peer_whose_connection_breaks_half_way_is_blamed_and_the_rest_comes_from_elsewhere(
    checkpoint: tuple[Path, SignedManifest],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_chunks, "PART_DEADLINE_S", 10.0)
    folder, signed = checkpoint
    records, bad = Records(), BadService(signed, folder, "stalls")
    async with node("me", records, ChunkCache(tmp_path, ROOM)) as me, AsyncExitStack() as stack:
        records.add("bad", await stack.enter_async_context(serving(bad)), signed.digest)
        load = asyncio.create_task(me.load(signed, Origin(source=Far(CountedSource(folder)))))
        async with asyncio.timeout(5):
            while not bad.asked:  # noqa: ASYNC110 - a server's list
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # the first half is on its way
        await stack.aclose()
        assert_right(await load)
        assert me.spread.blames.num_blames >= 1
        assert "node bad " in caplog.text


async def test_two_processes_worth_of_nodes_share_one_cache(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path
) -> None:
    folder, signed = checkpoint
    records, source = Records(), CountedSource(folder)
    async with (
        node("a", records, ChunkCache(tmp_path, ROOM)) as first,
        node("b", records, ChunkCache(tmp_path, ROOM)) as second,
    ):
        loads = [each.load(signed, Origin(source=Far(source))) for each in (first, second)]
        for loaded in await asyncio.gather(*loads):
            assert_right(loaded)
    assert source.num_bytes == sum(chunk.size_bytes for chunk in ChunkTable(signed).chunks)


async def test_a_cache_that_takes_nothing_is_as_none(checkpoint: tuple[Path, SignedManifest], tmp_path: Path) -> None:
    folder, signed = checkpoint
    (tmp_path / "file").write_bytes(b"")
    async with node("me", Records(), ChunkCache(tmp_path / "file" / "chunks", ROOM)) as me:
        assert_right(await me.load(signed, Origin(source=Far(CountedSource(folder)))))
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


async def test_a_cache_that_fails_in_an_unforeseen_way_keeps_nobody_waiting(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(ChunkCache):
        def put(self, chunk: Hashed) -> bool:
            raise MemoryError

    folder, signed = checkpoint
    async with node("me", Records(), Failing(tmp_path, ROOM)) as me:
        async with asyncio.timeout(30):
            assert_right(await me.load(signed, Origin(source=Far(CountedSource(folder)))))
    assert "could not be kept" in caplog.text
