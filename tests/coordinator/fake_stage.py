"""A node's edge on loopback that does what its script says, and remembers what it was told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from osai.core.errors import OsaiError
from osai.core.protocol import hello
from osai.core.rpc import EDGE_MAX_BYTES, bind, make_server
from osai.proto import common_pb2, edge_pb2, edge_pb2_grpc

Message = edge_pb2.LinkMessage
Script = Callable[[Message], Iterable[Message]]
"""What a stage answers to a message, on the link by which it came."""


def opened(message: Message) -> Iterable[Message]:
    """Opens every session at once; says no more."""
    if message.WhichOneof("kind") == "open":
        yield Message(opened=edge_pb2.SessionOpened(session=message.open.session, epoch=message.open.epoch))


def caching(num_cached_tokens: int) -> Script:
    """Opens every session, and has the KV of so many of its prompt's tokens."""

    def script(message: Message) -> Iterable[Message]:
        for answer in opened(message):
            answer.opened.num_cached_tokens = num_cached_tokens
            yield answer

    return script


class Keeping:
    """A stage's script: opens every session, and keeps the rows that it is said to have for later epochs.

    Args:
        journal_begin: what it can push again begins here.
    """

    def __init__(self, journal_begin: int = 0) -> None:
        self._journal_begin = journal_begin
        self._held: set[int] = set()

    def __call__(self, message: Message) -> Iterable[Message]:
        kind = message.WhichOneof("kind")
        if kind == "close":
            self._held.discard(message.close.session)
        if kind == "open":
            session, known = message.open.session, message.open.num_known_tokens
            position = known - 1 if message.open.resume and session in self._held else 0
            self._held.add(session)
            answer = edge_pb2.SessionOpened(session=session, epoch=message.open.epoch, position=position)
            answer.journal_begin = min(position, self._journal_begin)
            yield Message(opened=answer)


def silent(_: Message) -> Iterable[Message]:
    """Takes everything and says nothing."""
    return ()


def refusing(error: OsaiError) -> Script:
    """Refuses every session."""

    def script(message: Message) -> Iterable[Message]:
        if message.WhichOneof("kind") == "open":
            yield failed(message.open.session, error, message.open.epoch)

    return script


def failed(session: int, error: OsaiError, epoch: int = 1, *, is_open: bool = False) -> Message:
    return Message(failed=edge_pb2.SessionFailed(session=session, epoch=epoch, error=error.to_proto(), open=is_open))


def progress(session: int, position: int, epoch: int = 1) -> Message:
    return Message(progress=edge_pb2.SessionProgress(session=session, epoch=epoch, position=position))


def tokens(session: int, *token_ids: int, first: int = 0, finish: str | None = None, epoch: int = 1) -> Message:
    """Tokens `first` and on; `finish` on the last."""
    ends = {"stop": common_pb2.FINISH_REASON_STOP, "length": common_pb2.FINISH_REASON_LENGTH}
    batch = [
        edge_pb2.Token(session=session, epoch=epoch, index=first + i, token=common_pb2.SampledToken(token_id=token))
        for i, token in enumerate(token_ids)
    ]
    if finish is not None:
        batch[-1].finish = ends[finish]
    return Message(tokens=edge_pb2.TokenBatch(tokens=batch))


class FakeStage(edge_pb2_grpc.EdgeServicer):
    """One stage. Every link that greets it gets what `say` says."""

    def __init__(self, node_id: str, script: Script = opened, greeting: common_pb2.Hello | None = None) -> None:
        self.node_id = node_id
        self.greeting = greeting or hello(node_id)
        self.script = script
        self.address = ""
        self.received: list[Message] = []
        self.num_links = 0
        self.server: grpc.aio.Server | None = None
        self._news = asyncio.Condition()
        self._outboxes: list[asyncio.Queue[Message]] = []

    async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
        greeting = await anext(request_iterator)
        assert greeting.WhichOneof("kind") == "hello"
        await context.write(Message(hello=self.greeting))
        self.num_links += 1
        outbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outboxes.append(outbox)
        writer = asyncio.create_task(self._write(outbox, context))
        try:
            async for message in request_iterator:
                for answer in self.script(message):
                    outbox.put_nowait(answer)
                async with self._news:
                    self.received.append(message)
                    self._news.notify_all()
        finally:
            self._outboxes.remove(outbox)
            writer.cancel()

    async def _write(self, outbox: asyncio.Queue[Message], context: Any) -> None:  # noqa: ANN401
        while True:
            await context.write(await outbox.get())

    def say(self, message: Message) -> None:
        """Send a message on every link."""
        for outbox in self._outboxes:
            outbox.put_nowait(message)

    def of(self, kind: str) -> list[Message]:
        """What came of one kind."""
        return [message for message in self.received if message.WhichOneof("kind") == kind]

    async def got(self, kind: str, count: int = 1) -> Message:
        """Wait until `count` messages of a kind have come; the last of them."""
        async with asyncio.timeout(5), self._news:
            await self._news.wait_for(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    async def die(self) -> None:
        """End every link at once, and listen no more."""
        assert self.server is not None
        await self.server.stop(None)


@asynccontextmanager
async def stages(*members: FakeStage) -> AsyncIterator[None]:
    """Run stages on free ports."""
    for member in members:
        member.server = make_server(max_message_bytes=EDGE_MAX_BYTES)
        edge_pb2_grpc.add_EdgeServicer_to_server(member, member.server)
        member.address = f"127.0.0.1:{bind(member.server, '127.0.0.1:0')}"
        await member.server.start()
    try:
        yield
    finally:
        for member in members:
            await member.die()
