"""Swarms of real processes give transformers' own tokens, for every model family."""

import asyncio
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from families.checkpoints import FAMILIES
from families.fixtures import Checkpoints
from families.reference import generate_greedy, load_whole
from osai.client import AsyncClient, Chunk
from swarm.programs import Hosted, Publisher, SignedModel, TestSwarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]

LENGTHS = (5, 21, 33, 12)  # prompts; windows and chunks of these models are 16 tokens
NUM_TOKENS = 40
CUTS = (("0:2", "2:4", "4:6"), ("0:1", "1:5", "5:6"), ("0:3", "3:4", "4:6"))  # even and uneven, family by family


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints) -> tuple[Publisher, list[SignedModel]]:
    publisher = Publisher(tmp_path_factory.mktemp("publisher"))
    return publisher, [publisher.sign(family, checkpoints(family)) for family in FAMILIES]


@pytest.fixture(scope="module")
def three_nodes(
    tmp_path_factory: pytest.TempPathFactory, models: tuple[Publisher, list[SignedModel]]
) -> Iterator[TestSwarm]:
    """Three nodes, each with one span of every model."""
    publisher, signed = models
    with TestSwarm(tmp_path_factory.mktemp("three"), publisher.public_key) as swarm:
        swarm.serve(signed)
        cuts = [(model, CUTS[i % len(CUTS)]) for i, model in enumerate(signed)]
        swarm.add_nodes([[Hosted(model=model, span=cut[node]) for model, cut in cuts] for node in range(3)])
        yield swarm


@pytest.fixture(scope="module")
def six_nodes(
    tmp_path_factory: pytest.TempPathFactory, models: tuple[Publisher, list[SignedModel]]
) -> Iterator[TestSwarm]:
    """Six nodes, each with one layer of every model."""
    publisher, signed = models
    with TestSwarm(tmp_path_factory.mktemp("six"), publisher.public_key) as swarm:
        swarm.serve(signed)
        swarm.add_nodes([[Hosted(model=model, span=f"{i}:{i + 1}") for model in signed] for i in range(6)])
        yield swarm


def prompts_of(family: str) -> list[list[int]]:
    draw = random.Random(family)
    return [[draw.randrange(3, 370) for _ in range(length)] for length in LENGTHS]


@cache
def expected(checkpoint: Path, family: str) -> list[list[int]]:
    """What both swarms must give."""
    whole = load_whole(checkpoint)
    return [generate_greedy(whole, prompt, NUM_TOKENS) for prompt in prompts_of(family)]


async def generate_staggered(address: str, model_id: str, prompts: list[list[int]]) -> list[list[int]]:
    """Four sessions at once; each starts when the one before it has some tokens."""
    async with AsyncClient(address) as client:
        started = [asyncio.Event() for _ in range(len(prompts) + 1)]
        started[0].set()

        async def one(i: int) -> list[int]:
            await started[i].wait()
            tokens: list[int] = []
            events = client.generate(prompts[i], model_id=model_id, max_tokens=NUM_TOKENS, ignore_eos=True)
            async for event in events:
                tokens += [token.token_id for token in event.tokens] if isinstance(event, Chunk) else []
                if len(tokens) >= 5:
                    started[i + 1].set()
            return tokens

        return await asyncio.gather(*(one(i) for i in range(len(prompts))))


@pytest.mark.parametrize("family", FAMILIES)
async def test_three_nodes_give_transformers_tokens(
    family: str, three_nodes: TestSwarm, checkpoints: Checkpoints
) -> None:
    assert await generate_staggered(three_nodes.address, family, prompts_of(family)) == expected(
        checkpoints(family), family
    )


@pytest.mark.parametrize("family", FAMILIES)
async def test_spans_of_one_layer_give_transformers_tokens(
    family: str, six_nodes: TestSwarm, checkpoints: Checkpoints
) -> None:
    assert await generate_staggered(six_nodes.address, family, prompts_of(family)) == expected(
        checkpoints(family), family
    )
