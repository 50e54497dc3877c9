"""What a node's ring passes on of KV that sessions share, and from whom it takes it."""

import pytest

from node.fake_engine import NEXT, TAIL, Message, node, open_session, until
from osai.core.errors import InvalidRequestError, from_proto
from osai.proto import edge_pb2

HASHES = (b"a" * 16, b"b" * 16)
LONG = {"num_prompt_tokens": 33, "max_total_tokens": 64}


async def test_kv_is_shared_within_the_sessions_of_one_peer() -> None:
    async with node(TAIL) as it:
        it.engine.num_cached_tokens = 16
        it.open(1, TAIL, NEXT, block_hashes=HASHES, num_stages=3, **LONG)
        opened = (await it.hears()).opened
        assert opened == edge_pb2.SessionOpened(session=1, epoch=1, num_cached_tokens=16)
        spec = it.engine.sessions[1]
        assert (spec.block_hashes, spec.num_stages, spec.scope) == (HASHES, 3, "coordinator")
        other, _ = it.ring.attach("another")
        await it.ring.receive(other, Message(open=open_session(2, TAIL, NEXT, block_hashes=HASHES, **LONG)))
        assert it.engine.sessions[2].scope == "another"


async def test_a_closed_sessions_blocks_are_named_by_its_owner_alone() -> None:
    """Anybody else could pass off KV of its own making as the owner's."""
    async with node(TAIL) as it:
        for session in (1, 2):
            await it.opens(session, TAIL, NEXT, **LONG)
        it.link.send(Message(close=edge_pb2.CloseSession(session=1, block_hashes=HASHES)))
        await until(lambda: it.engine.closed == [1])
        other, outbox = it.ring.attach("another")
        await it.ring.receive(other, Message(close=edge_pb2.CloseSession(session=2, block_hashes=HASHES)))
        assert it.engine.kept == {1: HASHES, 2: ()}
        assert isinstance(from_proto((await outbox.get()).failed.error), InvalidRequestError)


@pytest.mark.parametrize("hashes", [[b"h" * 16] * 5, [b"h" * 16, b"h" * 17], [b""]])
async def test_a_session_whose_blocks_make_no_sense_is_closed_without_them(hashes: list[bytes]) -> None:
    async with node(TAIL) as it:
        await it.opens(1, TAIL, NEXT, **LONG)
        it.link.send(Message(close=edge_pb2.CloseSession(session=1, block_hashes=hashes)))
        session, error = await it.fails(2)
        assert (session, type(error)) == (1, InvalidRequestError)
        assert (it.engine.kept, it.ring.num_sessions) == ({1: ()}, 0)


async def test_a_session_that_closes_leaves_its_room_to_the_next_message() -> None:
    """It used to be freed by a task of its own: an open right behind the close could come before it."""
    async with node(TAIL) as it:
        await it.opens(1, TAIL, NEXT)
        await it.ring.receive(1, Message(close=edge_pb2.CloseSession(session=1)))
        assert it.engine.closed == [1]
