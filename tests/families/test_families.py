"""Every family, cut into spans and batched, gives the tokens that transformers gives it alone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch

from families.checkpoints import FAMILIES
from families.fixtures import Checkpoints
from families.reference import generate_greedy, lazy_tensors, load_whole, read_config
from families.ring import Generation, Ring
from osai.node.engine import kv_cache, packed_linear, span_model
from osai.node.engine.options import EngineOptions

CUTS = (0, 1, 4, 6)
SINGLE_LAYERS = (0, 1, 2, 3, 4, 5, 6)
NUM_TOKENS = 26  # with the prompts, crosses windows and chunks of 16
PROMPT_LENGTHS = (5, 21, 33, 12)
SMALL_STEPS = EngineOptions(max_prefill_tokens=9)  # prompts come in chunks that don't fit windows


@pytest.fixture(autouse=True)
def packs_whatever_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of large models, although these weights are too small to gain by it."""
    monkeypatch.setattr(packed_linear, "MIN_ELEMENTS", dict.fromkeys(packed_linear.MIN_ELEMENTS, 0))


def prompts_of(lengths: Sequence[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, 370, (length,), generator=generator).tolist() for length in lengths]


@asynccontextmanager
async def ring_of(
    path: Path, cuts: Sequence[int], options: EngineOptions, dtype: torch.dtype = torch.float32
) -> AsyncIterator[Ring]:
    ring = Ring(read_config(path), lazy_tensors(path), cuts)
    await ring.start(options, dtype)
    try:
        yield ring
    finally:
        await ring.stop()


def reference(path: Path, prompts: list[list[int]], dtype: torch.dtype = torch.float32) -> list[list[int]]:
    model = load_whole(path, dtype)
    return [generate_greedy(model, prompt, NUM_TOKENS) for prompt in prompts]


async def batched(ring: Ring, prompts: list[list[int]]) -> list[list[int]]:
    """All prompts' tokens; session i joins when the one before it has three."""
    generations: list[Generation] = []
    for i, prompt in enumerate(prompts):
        if i:
            await generations[-1].reached(3)
        generations.append(await ring.open(i, prompt, NUM_TOKENS))
    return [await ring.wait(generation) for generation in generations]


@pytest.mark.parametrize("family", FAMILIES)
async def test_batched_spans_give_transformers_tokens(family: str, checkpoints: Checkpoints) -> None:
    path, prompts = checkpoints(family), prompts_of(PROMPT_LENGTHS)
    want = reference(path, prompts)
    assert len({token for tokens in want for token in tokens}) > 8, "a constant output would prove nothing"
    async with ring_of(path, CUTS, SMALL_STEPS) as ring:
        assert await batched(ring, prompts) == want
        assert max(ring.step_sizes[-1]) > 1, "nothing was batched"


@pytest.mark.parametrize("family", ["llama4_scout", "gemma2", "deepseek_v3"])
async def test_single_layer_spans_give_transformers_tokens(family: str, checkpoints: Checkpoints) -> None:
    path, prompts = checkpoints(family), prompts_of(PROMPT_LENGTHS[:2])
    async with ring_of(path, SINGLE_LAYERS, SMALL_STEPS) as ring:
        assert await batched(ring, prompts) == reference(path, prompts)


@pytest.mark.parametrize("family", FAMILIES)
async def test_bf16_unbatched_gives_transformers_tokens(
    family: str, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, over torch's own operators; osai's kernels round elsewhere, see test_bf16_kernels."""
    for module in (span_model, kv_cache):
        monkeypatch.setattr(module, "load_kernels", lambda: None)
    path, prompts = checkpoints(family), prompts_of((21,))
    async with ring_of(path, CUTS, EngineOptions(), torch.bfloat16) as ring:
        generation = await ring.open(0, prompts[0], NUM_TOKENS)
        assert [await ring.wait(generation)] == reference(path, prompts, torch.bfloat16)


@pytest.mark.parametrize("family", FAMILIES)
async def test_cut_back_then_on_gives_the_same_tokens(family: str, checkpoints: Checkpoints) -> None:
    """A session that is fed other tokens from a position on, then cut back, goes on as if nothing had happened."""
    path, prompt = checkpoints(family), prompts_of((21,))[0]
    async with ring_of(path, CUTS, SMALL_STEPS) as ring:
        generation = await ring.open(0, prompt, NUM_TOKENS)
        want = await ring.wait(generation)
        for position in (37, 18):  # past and before the end of the prompt, past and before the window's end
            generation.done.clear()
            wrong = [(token + 1) % 370 for token in (prompt + want)[position : position + 5]]
            ring.feed(0, wrong, position, epoch=position)
            await asyncio.sleep(0.004)  # by now they have come some way
            ring.feed(0, (prompt + want)[position : position + 5], position, epoch=position + 1)
            assert await ring.wait(generation) == want
