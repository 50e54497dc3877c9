"""What watches a node: nothing that was not asked for, and all of what was."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from node.fake_engine import MODEL, NEXT, TAIL, Message, hidden, node, open_session, rows, until
from osai.core.errors import SetupError
from osai.core.manifest import TrustPolicy
from osai.node.config import NodeConfig, Wish
from osai.node.engine.api import SessionSpec, StepOutput
from osai.node.engine_meter import PrefillSeen
from osai.node.observing import observing
from osai.node.wire import write_batch
from osai.proto import edge_pb2


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig(
        address="127.0.0.1:7070", wishes=(Wish(),), listen="127.0.0.1:0", announce="", dht_listen="127.0.0.1:0",
        state_dir=tmp_path, trust=TrustPolicy(), allow_unsigned=False, device="cpu", dtype="auto", memory_bytes=2**30,
        num_threads=1, name="me",
    )  # fmt: skip


async def test_a_node_of_which_nobody_wants_anything_has_its_meter_alone(config: NodeConfig) -> None:
    async with observing(config, "me", lambda _: None) as observed:
        assert (observed.metrics, observed.on_traffic) == (None, None)
        observed.meter.opened(SessionSpec(session=1, span=MODEL, num_prompt_tokens=3, max_total_tokens=9), 0)
        observed.meter.stepped(StepOutput(span=MODEL, rows=(rows(),), hidden=None), 1.0)
        assert observed.meter.num_tokens == 3


async def test_metrics_are_where_they_were_wanted_and_traces_are_told(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    wanted = replace(config, metrics_listen="127.0.0.1:0", traces="http://127.0.0.1:1")
    async with observing(wanted, "me", told.append) as observed, aiohttp.ClientSession() as session:
        assert observed.metrics is not None
        prefill = PrefillSeen(
            session=1, epoch=1, key=MODEL, begun_s=0.0, ended_s=2.0, queue_s=0.0, compute_s=1.0, num_rows=3,
            num_cached_tokens=0,
        )  # fmt: skip
        observed.metrics.seen(prefill)
        async with session.get(told[0]) as response:
            assert f'osai_node_prefill_time_seconds_sum{{model="{MODEL}"}} 2.0' in await response.text()
        async with session.get(told[0].replace("/metrics", "/")) as response:
            assert response.status == 404
    with pytest.raises(SetupError, match="write http://HOST:4317"):
        await observing(replace(config, traces="nowhere"), "me", told.append).__aenter__()
    assert "nowhere" not in repr(replace(config, traces="nowhere"))  # it may hold a password


async def test_every_message_is_counted_by_the_kind_of_its_link() -> None:
    carried: Counter[tuple[str, str]] = Counter()

    def count(link: str, direction: str, num_bytes: int) -> None:
        carried[link, direction] += num_bytes

    async with node(TAIL, on_traffic=count) as it:
        await it.opens(1, TAIL, NEXT)
        opening = Message(open=open_session(1, TAIL, NEXT)).ByteSize()
        assert carried["accepted", "received"] == opening
        assert carried["accepted", "sent"] == Message(opened=edge_pb2.SessionOpened(session=1, epoch=1)).ByteSize()
        batch = write_batch([rows()], hidden(3))
        it.link.send(batch)
        await until(lambda: carried["accepted", "received"] == opening + batch.ByteSize())
        it.ring.probe(NEXT)
        assert carried["dialled", "sent"] > 0
        assert it.ring.num_peers == 1
