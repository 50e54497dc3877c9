"""What a node gives to whom: chunks of its manifests alone, so many at a time, and no faster than is allowed."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.core.admission import Role
from osai.core.errors import BadFrameError, InvalidRequestError, OsaiError, ResourceExhaustedError, WeightsError
from osai.core.manifest import SignedManifest, parse, unsigned
from osai.core.member_channel import member_channel
from osai.core.rpc import error_of, insecure_channel
from osai.core.token_bucket import TokenBucket
from osai.node.weights import bits, service
from osai.node.weights.cache import ChunkCache, Hashed
from osai.node.weights.chunk_table import ChunkTable
from osai.node.weights.seeders import MAX_EVER, MAX_SEEDERS, choose, read_seeders
from osai.node.weights.service import ServeLimits
from osai.node.weights.source import LocalFolder
from osai.node.weights.spread import Origin, Spread
from osai.proto import record_pb2, weights_pb2, weights_pb2_grpc
from private.swarm_members import PrivateSwarm
from weights.spread_nodes import (
    CHUNK,
    LAYERS,
    NAMES,
    QUICK,
    CountedSource,
    Far,
    Records,
    SpreadNode,
    make_checkpoint,
    node,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SignedManifest]:
    folder = tmp_path_factory.mktemp("large")
    return folder, make_checkpoint(folder)


async def fetch(address: str, sha256: bytes) -> bytes:
    """A chunk, all parts together."""
    async with insecure_channel(address) as channel:
        call: Any = weights_pb2_grpc.WeightsStub(channel).Fetch(weights_pb2.FetchRequest(sha256=sha256), timeout=20)
        try:
            return b"".join([part.data async for part in call])
        except grpc.aio.AioRpcError as e:
            raise error_of(e) from e


async def have(address: str, digest: bytes) -> weights_pb2.HaveReply:
    async with insecure_channel(address) as channel:
        request, stub = weights_pb2.HaveRequest(manifest_digest=digest), weights_pb2_grpc.WeightsStub(channel)
        try:
            reply: Any = await stub.Have(request, timeout=20)
        except grpc.aio.AioRpcError as e:
            raise error_of(e) from e
    assert isinstance(reply, weights_pb2.HaveReply)
    return reply


async def serve(holder: SpreadNode, checkpoint: tuple[Path, SignedManifest]) -> ChunkTable:
    folder, signed = checkpoint
    await holder.load(signed, Origin(source=LocalFolder(folder)))
    return ChunkTable(signed)


async def test_a_node_gives_the_chunks_of_its_manifest_from_where_they_are(
    checkpoint: tuple[Path, SignedManifest],
) -> None:
    async with node("a", Records(), None) as holder:
        table = await serve(holder, checkpoint)
        assert (
            bits.unpack((await have(holder.address, table.manifest_digest)).held, len(table)) == (1 << len(table)) - 1
        )
        for chunk in table.chunks:
            data = await fetch(holder.address, bytes.fromhex(chunk.sha256))
            assert data == (checkpoint[0] / chunk.file).read_bytes()[chunk.begin : chunk.end]


async def test_files_beside_the_manifest_and_other_manifests_are_given_to_nobody(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path
) -> None:
    cache = ChunkCache(tmp_path, 2**20)
    async with node("a", Records(), cache) as holder:
        table = await serve(holder, checkpoint)
        secret = Hashed(b"of another model")
        cache.put(secret)
        for sha256 in (bytes.fromhex(secret.sha256), bytes(32)):
            with pytest.raises(WeightsError, match="ask another one"):
                await fetch(holder.address, sha256)
        with pytest.raises(InvalidRequestError):
            await fetch(holder.address, b"../../etc/passwd")
        with pytest.raises(WeightsError):
            await have(holder.address, bytes(32))
        holder.spread.release("me/large")
        with pytest.raises(WeightsError):
            await have(holder.address, table.manifest_digest)
        with pytest.raises(WeightsError):
            await fetch(holder.address, bytes.fromhex(table.chunks[0].sha256))


async def test_a_folder_without_some_files_says_so(checkpoint: tuple[Path, SignedManifest], tmp_path: Path) -> None:
    folder, signed = checkpoint
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[: 3 * CHUNK])
    origin, table = Origin(source=LocalFolder(tmp_path)), ChunkTable(signed)
    async with node("a", Records(), None) as holder, holder.spread.loading("m", signed, origin, LAYERS):
        held = bits.unpack((await have(holder.address, signed.digest)).held, len(table))
    has = [chunk for i, chunk in enumerate(table.chunks) if held >> i & 1]
    assert has
    assert all(chunk.file == "model.safetensors" and chunk.end <= 3 * CHUNK for chunk in has)


async def test_no_more_than_so_many_fetches_at_a_time(checkpoint: tuple[Path, SignedManifest]) -> None:
    limits = ServeLimits(bytes_a_second=CHUNK, part_bytes=CHUNK // 4, max_fetches=2)  # the third chunk takes seconds
    async with node("a", Records(), None, limits=limits) as holder:
        table = await serve(holder, checkpoint)
        digests = [bytes.fromhex(chunk.sha256) for chunk in table.chunks[1:5]]
        await fetch(holder.address, digests[0])  # takes the burst
        running = [asyncio.create_task(fetch(holder.address, digest)) for digest in digests[1:3]]
        async with asyncio.timeout(5):
            while holder.service.num_fetches < 2:  # noqa: ASYNC110 - a server's counter
                await asyncio.sleep(0.01)
        with pytest.raises(ResourceExhaustedError) as caught:
            await fetch(holder.address, digests[3])
        assert caught.value.retry_after_s > 0
        assert [len(data) for data in await asyncio.gather(*running)] == [CHUNK, CHUNK]
        assert holder.service.num_fetches == 0


async def test_one_host_leaves_places_to_others(
    checkpoint: tuple[Path, SignedManifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = iter(["10.0.0.9", "10.0.0.1", "10.0.0.1", "10.0.0.2"])
    monkeypatch.setattr(service, "caller_host", lambda _: next(hosts))
    limits = ServeLimits(bytes_a_second=CHUNK, part_bytes=CHUNK // 4, max_fetches=2, max_fetches_of_host=1)
    async with node("a", Records(), None, limits=limits) as holder:
        table = await serve(holder, checkpoint)
        digests = [bytes.fromhex(chunk.sha256) for chunk in table.chunks[1:5]]
        await fetch(holder.address, digests[0])  # takes the burst
        async with asyncio.TaskGroup() as group, asyncio.timeout(10):
            running = group.create_task(fetch(holder.address, digests[1]))
            while holder.service.num_fetches < 1:  # noqa: ASYNC110 - a server's counter
                await asyncio.sleep(0.01)
            with pytest.raises(ResourceExhaustedError):
                await fetch(holder.address, digests[2])
            assert len(await fetch(holder.address, digests[3])) == CHUNK
        assert len(running.result()) == CHUNK


async def test_chunks_go_out_no_faster_than_is_allowed(checkpoint: tuple[Path, SignedManifest]) -> None:
    limits = ServeLimits(bytes_a_second=4 * CHUNK)
    async with node("a", Records(), None, limits=limits) as holder:
        table = await serve(holder, checkpoint)
        begun_s = time.monotonic()
        for chunk in table.chunks[1:9]:
            await fetch(holder.address, bytes.fromhex(chunk.sha256))
        assert time.monotonic() - begun_s > 0.8  # the second half: a second, less what the last part does not wait for


async def test_who_takes_nothing_holds_no_place_for_long(checkpoint: tuple[Path, SignedManifest]) -> None:
    limits = ServeLimits(fetch_deadline_s=0.3, bytes_a_second=1024)
    async with node("a", Records(), None, limits=limits) as holder:
        table = await serve(holder, checkpoint)
        with pytest.raises(OsaiError, match="not taken in time"):
            await fetch(holder.address, bytes.fromhex(table.chunks[1].sha256))
        assert holder.service.num_fetches == 0


@pytest.mark.parametrize("is_private", [True, False])
async def test_where_a_licence_must_be_accepted_only_members_of_a_private_swarm_get_the_weights(
    checkpoint: tuple[Path, SignedManifest], is_private: bool
) -> None:
    folder, signed = checkpoint
    strict = parse(unsigned(replace(signed.manifest, licence_must_accept=True)))
    swarm = PrivateSwarm()
    tls = swarm.join(Role.NODE) if is_private else None
    other = swarm.join(Role.NODE) if is_private else None
    name = tls.me.member_id if tls else "a"
    async with node(name, Records(), None, tls) as holder:
        await holder.load(strict, Origin(source=LocalFolder(folder)))
        async with member_channel(holder.address, other, Role.NODE, name if tls else "") as channel:
            request: Any = weights_pb2.HaveRequest(manifest_digest=strict.digest)
            call: Any = weights_pb2_grpc.WeightsStub(channel).Have(request, timeout=10)
            if is_private:
                assert (await call).held
            else:
                with pytest.raises(grpc.aio.AioRpcError):
                    await call


async def test_nodes_that_load_together_read_each_chunk_once_from_the_source(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path
) -> None:
    folder, signed = checkpoint
    records, source = Records(), CountedSource(folder)
    calm = replace(QUICK, settle_s=2.0, patience_s=8.0)
    nodes = [node(f"node-{i}", records, ChunkCache(tmp_path / str(i), 2**26), plan=calm) for i in range(4)]
    async with nodes[0] as a, nodes[1] as b, nodes[2] as c, nodes[3] as d:
        loads = [each.load(signed, Origin(source=Far(source))) for each in (a, b, c, d)]
        await asyncio.gather(*loads)
    total = sum(chunk.size_bytes for chunk in ChunkTable(signed).chunks)
    assert source.num_bytes <= 1.05 * total


async def test_whoever_loads_seeks_the_files_that_it_will_read_too(
    checkpoint: tuple[Path, SignedManifest], tmp_path: Path
) -> None:
    """Else two that come to them at the same moment both read the source: 1 in 25 times a test had that."""
    folder, signed = checkpoint
    spread, files = Spread("me", ChunkCache(tmp_path, 2**26), gives=True), ["config.json", "tokenizer.json"]
    async with spread.loading("me/large", signed, Origin(source=CountedSource(folder)), LAYERS, files) as taking:
        taking.want(NAMES)
        offer = spread.stock.offer(signed.digest)
        config = offer.table.of_files(files)
        assert offer.table.num_bytes(config) == (folder / "config.json").stat().st_size
        assert (offer.sought | offer.held) & config == config


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 3000)), max_size=40), st.integers(1, 2000))
def test_a_bucket_lets_through_no_more_than_burst_and_rate(steps: list[tuple[float, int]], rate: int) -> None:
    bucket, now_s, sent = TokenBucket.full(rate, 1000, 0.0), 0.0, 0
    for pause_s, size in steps:
        now_s += pause_s
        now_s += bucket.take(size, now_s)  # who waits as told
        sent += size
        assert sent <= 1000 + rate * now_s + 1e-6 * (1 + sent)


def test_a_bucket_does_not_make_anybody_wait_after_a_rest() -> None:
    bucket = TokenBucket.full(100, 1000, 0.0)
    assert bucket.take(1000, 0.0) == 0
    assert bucket.take(100, 0.0) == pytest.approx(1.0)
    assert bucket.take(100, 100.0) == 0
    assert bucket.take(900, 100.0) == 0


sets = st.sets(st.integers(0, 300))


@given(sets, st.integers(0, 400))
def test_sets_cross_the_wire(numbers: set[int], start: int) -> None:
    chosen = bits.of(numbers)
    assert list(bits.members(chosen)) == sorted(numbers)
    assert bits.unpack(bits.pack(chosen), 301) == chosen
    if numbers:
        after = [number for number in sorted(numbers) if number >= start]
        assert bits.next_from(chosen, start) == (after[0] if after else min(numbers))


@given(st.binary(max_size=60), st.integers(0, 400))
def test_a_set_of_numbers_that_are_not_there_is_refused(data: bytes, count: int) -> None:
    try:
        chosen = bits.unpack(data, count)
    except BadFrameError:
        return
    assert chosen.bit_length() <= count
    assert len(data) <= (count + 7) // 8


@given(st.lists(sets, max_size=8))
def test_rarity_counts_who_has_a_number(each: list[set[int]]) -> None:
    levels = bits.at_least([bits.of(one) for one in each])
    for number in range(0, 301, 7):
        count = sum(number in one for one in each)
        assert sum(level >> number & 1 for level in levels) == count


def test_chunks_are_numbered_alike_by_all(checkpoint: tuple[Path, SignedManifest]) -> None:
    _, signed = checkpoint
    table = ChunkTable(signed)
    digests = list(dict.fromkeys(chunk.sha256 for chunk in signed.manifest.chunks()))
    assert [chunk.sha256 for chunk in table.chunks] == digests
    assert [table.number(digest) for digest in digests] == list(range(len(table)))
    for chunk in signed.manifest.chunks():
        number = table.at(chunk.file, chunk.begin, chunk.end)
        assert number is not None
        assert table.chunks[number].sha256 == chunk.sha256
    assert table.at("model.safetensors", 0, 7) is None
    wanted = table.of_tensors(NAMES[:1])
    assert table.num_bytes(wanted) == signed.manifest.tensors[0].size_bytes


def record(node_id: str, digest: bytes, state: str, *, node_state: str = "ready", address: str = "h:1") -> bytes:
    spans = [record_pb2.SpanRecord(manifest_digest=digest, state=state)]
    it = record_pb2.NodeRecord(node_id=node_id, edge_address=address, spans=spans, state=node_state)
    return it.SerializeToString()


def test_seeders_are_other_nodes_of_the_same_manifest_that_serve_or_load() -> None:
    mine, other = b"m" * 32, b"o" * 32
    payloads = {
        "me": record("me", mine, "ready"),
        "ready": record("ready", mine, "ready"),
        "loading": record("loading", mine, "loading"),
        "failed": record("failed", mine, "failed"),
        "other": record("other", other, "ready"),
        "leaving": record("leaving", mine, "ready", node_state="draining"),
        "revoked": record("revoked", mine, "ready"),
        "nowhere": record("nowhere", mine, "ready", address=""),
        "posing": record("somebody else", mine, "ready"),
        "noise": b"\xff\xff",
    }
    found = read_seeders(payloads, mine, "me", lambda node_id: node_id == "revoked")
    assert found == {"ready": "h:1", "loading": "h:1"}


def test_of_many_seeders_those_that_are_known_stay() -> None:
    seeders = {f"n{i}": f"h:{i}" for i in range(100)}
    first = choose(seeders, {}, set(), Random(1))
    assert len(first) == MAX_SEEDERS
    assert choose(seeders, first, set(first), Random(2)) == first
    moved = seeders | {next(iter(first)): "elsewhere:1"}
    assert len(choose(moved, first, set(first), Random(3))) == MAX_SEEDERS


def test_one_load_asks_so_many_nodes_and_no_more_however_many_come() -> None:
    ever: set[str] = set()
    for i in range(30):  # all of them new each time
        chosen = choose({f"n{i}-{j}": f"h:{j}" for j in range(40)}, {}, ever, Random(i))
        ever |= chosen.keys()
    assert len(ever) == MAX_EVER
    again = dict.fromkeys(sorted(ever)[:5], "h:1") | {"new": "h:2"}
    assert set(choose(again, {}, ever, Random(0))) == set(again) - {"new"}
