"""Carries out one session's actions on the links to its stages."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import replace

from osai.coordinator.api import Rerouted, StageView, Waiting
from osai.coordinator.sessions.actions import (
    Action,
    Begin,
    Close,
    Emit,
    End,
    FindPipeline,
    FindStandby,
    Follow,
    Found,
    Open,
    OpenFollower,
    OpenKind,
    Resume,
    SendIds,
)
from osai.coordinator.sessions.messages import SessionWriter, read_opened
from osai.coordinator.sessions.session import Session
from osai.coordinator.sessions.surroundings import Surroundings
from osai.coordinator.wire import read_token
from osai.core.errors import OsaiError, from_proto
from osai.core.prefix import block_hashes
from osai.proto import edge_pb2

Happening = Callable[[Session, float], list[Action]]
Told = Begin | Emit | Rerouted | Waiting | End  # what the session's client is to know


class SessionRunner:
    """The shell of one session. What happens to it comes in through `happened`, from any callback of the loop.

    Args:
        session: decides.
        writer: writes its messages, under its number.
        surroundings: finds pipelines, and takes the messages.
        generated: ids of the tokens that are known as it is resumed.
    """

    def __init__(
        self, session: Session, writer: SessionWriter, surroundings: Surroundings, generated: Iterable[int] = ()
    ) -> None:
        self.session = session
        self._writer = writer
        self._surroundings = surroundings
        self._known = [*writer.plan.prompt, *generated]
        self._inbox: asyncio.Queue[Happening] = asyncio.Queue()
        self.was_watched = False  # it was told of a node of its own that is slow, stuck or about to leave

    @property
    def model_id(self) -> str:
        """The model that it runs on."""
        return self._writer.model_id

    @property
    def number(self) -> int:
        """The session's number on every edge."""
        return self._writer.number

    def happened(self, happening: Happening) -> None:
        """Something happened to the session; `happening` applies it."""
        self._inbox.put_nowait(happening)

    async def run(self) -> AsyncGenerator[Told, None]:
        """Run the session; yields what its client is to know, the End at last.

        Closing the generator closes the session on every stage.
        """
        actions = self.session.start()
        try:
            while True:
                for told in self._carry_out(actions):  # everything, before the client takes its time with the first
                    yield told
                    if isinstance(told, End):
                        return
                actions = await self._next()
        finally:  # also where the client has gone: no stage may keep its KV
            self._carry_out(self.session.cancel())

    async def _next(self) -> list[Action]:
        try:
            async with asyncio.timeout(max(0.0, self.session.deadline_s - time.monotonic())):
                happening = await self._inbox.get()
        except TimeoutError:
            return self.session.tick(time.monotonic())
        return happening(self.session, time.monotonic())

    def _carry_out(self, actions: list[Action]) -> list[Told]:
        told: list[Told] = []
        pending = deque(actions)
        while pending:
            action = pending.popleft()
            if isinstance(action, Begin | Emit | Rerouted | Waiting | End):
                told.append(action)
            if isinstance(action, FindPipeline | FindStandby):
                pending.extendleft(reversed(self._find(action)))
            else:
                self._perform(action)
        return told

    def _find(self, action: FindPipeline | FindStandby) -> list[Action]:
        now_s = time.monotonic()
        if isinstance(action, FindStandby):
            return self.session.standby_found(action.stage, self._surroundings.find_standby(action), now_s)
        found = self._surroundings.find_pipeline(action)
        if isinstance(found, Found):
            return self.session.pipeline_found(found, now_s)
        return self.session.no_pipeline(found, now_s)

    def _perform(self, action: Action) -> None:
        match action:
            case Open():
                self._open(action)
            case OpenFollower():
                self._send(action.follower, self._writer.open_follower(action, self._known))
            case Resume():
                self._send(action.stage, self._writer.resume(action))
            case Follow():
                self._send(action.stage, self._writer.follow(action))
            case SendIds():
                self._send(action.stage, self._writer.ids(action, self._known))
            case Emit():
                self._known.append(action.token.token_id)
            case Close():
                self._close(action)

    def _open(self, action: Open) -> None:
        if action.kind is OpenKind.RESTART:
            self._writer = replace(self._writer, number=self._surroundings.renumber(self.number))
        for stage, message in zip(action.pipeline, self._writer.opens(action, self._known), strict=True):
            self._send(stage, message)

    def _send(self, stage: StageView, message: edge_pb2.LinkMessage) -> None:
        try:
            self._surroundings.send(stage, message)
        except OsaiError as e:
            error = e
            self.happened(lambda session, now_s: session.lost(stage.node_id, error, now_s))

    def _close(self, action: Close) -> None:
        hashes: tuple[bytes, ...] = ()
        if action.keep_kv:  # all but the last token were inputs, so that their KV is there
            computed = self._known[:-1] if self.session.num_tokens else self._known
            plan = self._writer.plan
            hashes = block_hashes(computed, known=plan.block_hashes, salt=plan.prefix_salt)
        for stage in action.stages:
            self._surroundings.close(stage, self._writer.close(action.epoch, hashes))


def read_happenings(node_id: str, message: edge_pb2.LinkMessage) -> Iterator[tuple[int, Happening]]:
    """What a node's message tells to which sessions, by their numbers."""
    match message.WhichOneof("kind"):
        case "tokens":
            for token in message.tokens.tokens:
                yield token.session, _drawn(node_id, token)
        case "opened":
            opened = read_opened(message.opened)
            yield message.opened.session, lambda session, now_s: session.opened(node_id, opened, now_s)
        case "progress":
            yield message.progress.session, _progressed(node_id, message.progress)
        case "failed":
            yield message.failed.session, _failed(node_id, message.failed)


def _drawn(node_id: str, message: edge_pb2.Token) -> Happening:
    token = read_token(message)
    return lambda session, now_s: session.token(node_id, token, now_s)


def _progressed(node_id: str, message: edge_pb2.SessionProgress) -> Happening:
    epoch, position = message.epoch, message.position
    return lambda session, _: session.progressed(node_id, epoch, position)


def _failed(node_id: str, message: edge_pb2.SessionFailed) -> Happening:
    epoch, is_open = message.epoch, message.open
    error = from_proto(message.error)
    error.subject = error.subject or node_id
    return lambda session, now_s: session.failed(node_id, epoch, error, now_s, is_open=is_open)
