"""Carries out one session's actions on the links to its stages."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

from osai.coordinator.api import StageView
from osai.coordinator.session import Action, Close, Emit, End, Open, SendPrompt, Session
from osai.coordinator.wire import write_close
from osai.core.errors import OsaiError
from osai.core.link_pool import LinkPool
from osai.proto import edge_pb2

Happening = Callable[[Session, float], list[Action]]


class SessionRunner:
    """The shell of one session. What happens to it comes in through `happened`, from any callback of the loop.

    Args:
        number: the session's number on every edge.
        session: decides.
        links: to the stages.
        opens: one OpenSession a stage, in order.
        prompt: the prompt's frame for the head.
    """

    def __init__(
        self,
        number: int,
        session: Session,
        links: LinkPool,
        opens: list[edge_pb2.LinkMessage],
        prompt: edge_pb2.LinkMessage,
    ) -> None:
        self.number = number
        self.session = session
        self._links = links
        self._opens = opens
        self._prompt = prompt
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
                    self._perform(action)
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
                self._send(self.session.pipeline[0], self._prompt)
            case Close():
                self._close()

    def _send(self, stage: StageView, message: edge_pb2.LinkMessage) -> None:
        try:
            self._links.wire(stage.node_id, stage.address).send(message)
        except OsaiError as e:
            error = e
            self.happened(lambda session, _: session.lost(stage.node_id, error))

    def _close(self) -> None:
        for stage in self.session.pipeline:
            # a stage whose link is down has closed the session already: it is not dialled for this
            if (wire := self._links.held(stage.node_id, stage.address)) is not None:
                with contextlib.suppress(OsaiError):
                    wire.send(write_close(self.number))
