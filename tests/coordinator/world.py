"""A coordinator's generations over fake stages on loopback."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from coordinator.builders import MODEL, model, node, span
from coordinator.fake_stage import FakeStage, stages
from osai.coordinator.admission import QueueConfig
from osai.coordinator.api import GenerationEvent, GenerationRequest, SwarmView
from osai.coordinator.catalog import Catalog, ServedModel
from osai.coordinator.generations import SwarmGenerations
from osai.coordinator.sessions.session import SupervisionConfig
from osai.coordinator.swarm import Swarm
from osai.coordinator.text import Tokenizer
from osai.core.errors import OsaiError

REQUEST = GenerationRequest(model_id=MODEL, prompt=(60, 61, 62), max_tokens=10)


@dataclass
class World:
    """A coordinator's generations, and the swarm that it believes in."""

    served: ServedModel
    generations: SwarmGenerations
    swarm: Swarm
    sequence: int = 0

    def announce(
        self,
        stage: FakeStage,
        start: int,
        end: int,
        *,
        free: int = 1000,
        step_time_s: float = 0.01,
        **fields: Any,  # noqa: ANN401 - of a node
    ) -> None:
        self.sequence += 1
        digest = self.served.manifest.digest
        found = span(start, end, manifest_digest=digest, num_free_kv_tokens=free, step_time_s=step_time_s)
        told = node(stage.node_id, found, address=stage.address, sequence=self.sequence, **fields)
        self.swarm.heard(told, time.monotonic())


def no_view() -> SwarmView:
    raise NotImplementedError


@asynccontextmanager
async def world(
    tokenizer: Tokenizer,
    config: SupervisionConfig | None = None,
    queue: QueueConfig | None = None,
    *,
    standby: bool = False,
) -> AsyncIterator[World]:
    served = model(tokenizer)
    swarm = Swarm()
    generations = SwarmGenerations("c" * 32, Catalog([served]), swarm, no_view, config, queue, standby=standby)
    async with generations.links:
        yield World(served, generations, swarm)


@asynccontextmanager
async def three(
    tokenizer: Tokenizer,
    config: SupervisionConfig | None = None,
    queue: QueueConfig | None = None,
    *,
    standby: bool = False,
) -> AsyncIterator[tuple[World, list[FakeStage]]]:
    """Three stages of two layers, which open every session."""
    members = [FakeStage(name) for name in ("head", "middle", "tail")]
    async with stages(*members), world(tokenizer, config, queue, standby=standby) as it:
        for i, member in enumerate(members):
            it.announce(member, 2 * i, 2 * i + 2)
        yield it, members


async def collected(it: World, request: GenerationRequest = REQUEST) -> list[GenerationEvent]:
    async with asyncio.timeout(5), aclosing(it.generations.generate(request)) as events:
        return [event async for event in events]


async def failure(it: World, request: GenerationRequest = REQUEST) -> OsaiError:
    with pytest.raises(OsaiError) as caught:
        await collected(it, request)
    return caught.value


def dead_stage() -> FakeStage:
    """One at whose address nothing listens (the discard port)."""
    stage = FakeStage("dead")
    stage.address = "127.0.0.1:9"
    return stage


async def all_closed(members: list[FakeStage], session: int, count: int = 1) -> None:
    for member in members:
        await member.got("close", count)
        await asyncio.sleep(0)
        assert [message.close.session for message in member.of("close")] == [session] * count  # and once alone
