"""Nodes that are killed in mid-generation: the client sees a pause, and the tokens of an undisturbed run."""

import asyncio
import math
import time
from pathlib import Path

import pytest

from families.fixtures import Checkpoints
from osai.client import AsyncClient, Chunk, Completion, GenerationOptions
from osai.client.completion import CompletionBuilder
from swarm.programs import Hosted, Publisher, TestSwarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

PROMPT = [5, 99, 250, 17, 42, 8, 301]
SPANS = ("0:2", "0:2", "2:4", "2:4", "4:6", "4:6")
OPTIONS = GenerationOptions(model_id="llama", max_tokens=400, ignore_eos=True, temperature=0.8, seed=11)


async def generate(swarm: TestSwarm, kills: dict[int, tuple[int, ...]]) -> tuple[Completion, float]:
    """A generation, and the longest time between two tokens; at the index of each key these stages are killed."""
    builder, pause_s, last_s = CompletionBuilder(with_logprobs=False), 0.0, math.inf
    async with AsyncClient(swarm.address) as client:
        async for event in client.generate(PROMPT, **OPTIONS):
            builder.add(event)
            if isinstance(event, Chunk):
                pause_s, last_s = max(pause_s, time.monotonic() - last_s), time.monotonic()
                for place in kills.get(event.index, ()):
                    victim = builder.pipeline[place].node_id
                    swarm.nodes[next(name for name, node_id in swarm.ids.items() if node_id == victim)].kill()
    return builder.completion(), pause_s


@pytest.mark.parametrize("options", [(), ("--standby",)], ids=["no standbys", "standbys"])
@pytest.mark.parametrize("kills", [{50: (0,), 150: (1,), 250: (2,)}, {100: (1, 2)}], ids=["one by one", "two at once"])
def test_killed_nodes_are_replaced_and_the_tokens_stay_the_same(
    checkpoints: Checkpoints, tmp_path: Path, kills: dict[int, tuple[int, ...]], options: tuple[str, ...]
) -> None:
    publisher = Publisher(tmp_path)
    signed = publisher.sign("llama", checkpoints("llama"))
    with TestSwarm(tmp_path, publisher.public_key) as swarm:
        swarm.serve([signed], *options)
        swarm.add_nodes([[Hosted(model=signed, span=span)] for span in SPANS])
        undisturbed, _ = asyncio.run(generate(swarm, {}))
        completion, pause_s = asyncio.run(generate(swarm, kills))
    assert completion.token_ids == undisturbed.token_ids
    assert completion.num_recoveries >= len(kills)
    assert pause_s < 2.0
