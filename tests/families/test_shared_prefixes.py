"""Sessions that share the KV of a common beginning get the tokens that transformers gives each of them alone."""

from pathlib import Path

import pytest
import torch

from families.checkpoints import FAMILIES
from families.fixtures import Checkpoints
from families.reference import generate_greedy, lazy_tensors, load_whole, read_config
from families.ring import Ring
from osai.core.prefix import BLOCK_TOKENS
from osai.node.engine.options import EngineOptions

CUTS = (0, 1, 4, 6)
NUM_TOKENS = 24
SMALL_STEPS = EngineOptions(max_prefill_tokens=9)
BEGIN = torch.randint(3, 370, (53,), generator=torch.Generator().manual_seed(4)).tolist()  # three blocks and a bit


async def generate(ring: Ring, session: int, prompt: list[int], scope: str = "all") -> tuple[list[int], int]:
    """(tokens, how many of the prompt were cached) of a session that then ends."""
    generation = await ring.open(session, prompt, NUM_TOKENS, scope=scope)
    tokens = await ring.wait(generation)
    await ring.close(session)
    return tokens, generation.num_cached


def free(ring: Ring) -> list[int]:
    return [engine.num_free_kv_tokens("span") for engine in ring.engines]


@pytest.mark.parametrize("family", FAMILIES)
async def test_shared_beginnings_and_chat_turns(family: str, checkpoints: Checkpoints) -> None:
    path: Path = checkpoints(family)
    model = load_whole(path)
    ring = Ring(read_config(path), lazy_tensors(path), CUTS)
    await ring.start(SMALL_STEPS)
    begin = free(ring)

    # two at once, the second while the first is still running
    prompts = [[*BEGIN, 7, 301, 5], [*BEGIN, 44, 9]]
    want = [generate_greedy(model, prompt, NUM_TOKENS) for prompt in prompts]
    first = await ring.open(1, prompts[0], NUM_TOKENS, scope="all")
    await first.reached(3)
    second = await ring.open(2, prompts[1], NUM_TOKENS, scope="all")
    assert second.num_cached == len(BEGIN) // BLOCK_TOKENS * BLOCK_TOKENS
    assert [await ring.wait(first), await ring.wait(second)] == want
    await ring.close(1)
    await ring.close(2)

    # the next turn of the first chat, and another chat from a beginning that windows have left behind long ago
    turn = prompts[0] + want[0] + [12, 13, 14]
    answer = generate_greedy(model, turn, NUM_TOKENS)
    assert await generate(ring, 3, turn) == (answer, (len(prompts[0]) + NUM_TOKENS - 1) // BLOCK_TOKENS * BLOCK_TOKENS)
    assert await generate(ring, 4, prompts[1]) == (want[1], 48)
    assert await generate(ring, 5, turn, scope="another") == (answer, 0)
    assert free(ring) == begin
    await ring.stop()
