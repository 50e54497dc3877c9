"""Carries out one session's actions on the links to its stages."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator

from osai.coordinator.api import StageView
from osai.coordinator.plan import GenerationPlan
from osai.coordinator.session import Action, Close, Emit, End, Open, SendPrompt, Session, TokenEvent
from osai.coordinator.wire import read_token, write_close, write_prompt
from osai.core.errors import OsaiError, from_proto
from osai.core.link_pool import LinkPool
from osai.core.prefix import block_hashes
from osai.proto import edge_pb2

Happening = Callable[[Session, float], list[Action]]


class SessionRunner:
    """The shell of one session. What happens to it comes in through `happened`, from any callback of the loop.

    Args:
        number: the session's number on every edge.
        session: decides.
        links: to the stages.
        opens: one OpenSession a stage, in order.
        plan: what is generated.
    """

    def __init__(
        self,
        number: int,
        session: Session,
        links: LinkPool,
        opens: list[edge_pb2.LinkMessage],
        plan: GenerationPlan,
    ) -> None:
        self.number = number
        self.session = session
        self._links = links
        self._opens = opens
        self._plan = plan
        self._generated: list[int] = []
        self._inbox: asyncio.Queue[Happening] = asyncio.Queue()

    def happened(self, happening: Happening) -> None:
        """Something happened to the session; `happening` applies it."""
        self._inbox.put_nowait(happening)

    async def run(self) -> AsyncGenerator[SendPrompt | Emit | End, None]:
        """Run the session; yields what its client is to know: SendPrompt once it is open, Emit for each token, End.

        Closing the generator closes the session on every stage.
        """
        actions = self.session.start()
        try:
            while True:
                for action in actions:
                    self._perform(action)  # all of them, before the client takes its time with the first
                for action in actions:
                    if isinstance(action, SendPrompt | Emit | End):
                        yield action
                    if isinstance(action, End):
                        return
                actions = await self._next()
        finally:  # also where the client has gone: no stage may keep its KV
            for action in self.session.cancel():
                self._perform(action)

    async def _next(self) -> list[Action]:
        try:
            async with asyncio.timeout(max(0.0, self.session.deadline_s - time.monotonic())):
                happening = await self._inbox.get()
        except TimeoutError:
            return self.session.tick(time.monotonic())
        return happening(self.session, time.monotonic())

    def _perform(self, action: Action) -> None:
        match action:
            case Open():
                for stage, message in zip(self.session.pipeline, self._opens, strict=True):
                    self._send(stage, message)
            case SendPrompt():
                prompt = write_prompt(self.number, self.session.epoch, self._plan.prompt, action.position)
                self._send(self.session.pipeline[0], prompt)
            case Emit():
                self._generated.append(action.token.token_id)
            case Close():
                self._close(self._computed_blocks() if action.keep_kv else ())

    def _send(self, stage: StageView, message: edge_pb2.LinkMessage) -> None:
        try:
            self._links.wire(stage.node_id, stage.address).send(message)
        except OsaiError as e:
            error = e
            self.happened(lambda session, _: session.lost(stage.node_id, error))

    def _computed_blocks(self) -> tuple[bytes, ...]:
        """Hashes of the session's full blocks: all but its last token were inputs, so that their KV is there."""
        return block_hashes((*self._plan.prompt, *self._generated[:-1]), known=self._plan.block_hashes)

    def _close(self, hashes: tuple[bytes, ...]) -> None:
        message = write_close(self.number, hashes)
        for stage in self.session.pipeline:
            # a stage whose link is down has closed the session already: it is not dialled for this
            if (wire := self._links.held(stage.node_id, stage.address)) is not None:
                with contextlib.suppress(OsaiError):
                    wire.send(message)


def read_happenings(node_id: str, message: edge_pb2.LinkMessage) -> Iterator[tuple[int, Happening]]:
    """What a node's message tells to which sessions, by their numbers."""
    match message.WhichOneof("kind"):
        case "tokens":
            for token in message.tokens.tokens:
                yield token.session, _drawn(node_id, read_token(token))
        case "opened":
            yield message.opened.session, _opened(node_id, message.opened)
        case "failed":
            error = from_proto(message.failed.error)
            error.subject = error.subject or node_id
            yield message.failed.session, _failed(node_id, message.failed.epoch, error)


def _drawn(node_id: str, token: TokenEvent) -> Happening:
    return lambda session, now_s: session.token(node_id, token, now_s)


def _opened(node_id: str, message: edge_pb2.SessionOpened) -> Happening:
    epoch, num_cached_tokens = message.epoch, message.num_cached_tokens
    return lambda session, now_s: session.opened(node_id, epoch, now_s, num_cached_tokens)


def _failed(node_id: str, epoch: int, error: OsaiError) -> Happening:
    return lambda session, _: session.failed(node_id, epoch, error)
