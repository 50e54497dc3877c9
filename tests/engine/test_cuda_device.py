"""On a GPU, if there is one: real captures and copies through a real engine. The rest runs on any CPU, elsewhere."""

import asyncio
import gc

import pytest
import torch

from engine.harness import MIDDLE, WHOLE, Harness, running
from families.fixtures import Checkpoints
from families.reference import generate_greedy, lazy_tensors, load_whole, read_config
from osai.core.layers import LayerRange
from osai.node.engine.cuda_runner import PagedRunner
from osai.node.engine.options import EngineOptions
from osai.node.engine.span_model import SpanModel, load_span

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine")

NUM_TOKENS = 16
PROMPTS = [[*range(5, 5 + count), 300] for count in (4, 17, 40)]
CAPTURED = ("llama", "gemma2")  # others' experts may ask the device for numbers in float32


def load(family: str, checkpoints: Checkpoints, layers: LayerRange, dtype: torch.dtype, device: str) -> SpanModel:
    path = checkpoints(family)
    return load_span(read_config(path), lazy_tensors(path), layers, dtype=dtype, device=device)


def runner_of(harness: Harness) -> PagedRunner:
    runner = harness.engine._mailbox._hosted["span"]._runner
    assert isinstance(runner, PagedRunner)
    return runner


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "mixtral", "llama4_scout"])
async def test_sessions_get_transformers_tokens(family: str, checkpoints: Checkpoints) -> None:
    whole = load_whole(checkpoints(family))
    want = [generate_greedy(whole, prompt, NUM_TOKENS) for prompt in PROMPTS]
    model = load(family, checkpoints, WHOLE, torch.float32, "cuda")
    async with running(model, EngineOptions(max_prefill_tokens=9), 4_000_000) as harness:
        for session, prompt in enumerate(PROMPTS):
            await harness.open(session, len(prompt), len(prompt) + NUM_TOKENS)
        lives = [harness.generate(session, prompt) for session, prompt in enumerate(PROMPTS)]
        assert [[token.token_id for token in sampled] for sampled in await asyncio.gather(*lives)] == want
        if family in CAPTURED:
            assert runner_of(harness).graphs.failure is None
            assert runner_of(harness).graphs.num_graphs > 0


@pytest.mark.parametrize("family", ["llama", "gemma2"])
async def test_halves_by_the_kernels_for_them(family: str, checkpoints: Checkpoints) -> None:
    """Hidden states of a span from the middle, by the GPU's own attention, are those of a CPU in float32."""
    hidden = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for dtype, device in ((torch.float32, "cpu"), (torch.bfloat16, "cuda")):
        async with running(load(family, checkpoints, MIDDLE, dtype, device)) as harness:
            await harness.open(1, 20)
            for begin, end in ((0, 20), *((i, i + 1) for i in range(20, 30))):
                harness.submit(1, begin, hidden[begin:end].to(dtype))
                await harness.output(len(harness.outputs))
            found.append(torch.cat([each.hidden.float() for each in harness.outputs if each.hidden is not None]))
            if device == "cuda":
                assert runner_of(harness).graphs.failure is None
                assert runner_of(harness).graphs.num_graphs > 0
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.05 * float(found[0].abs().max()))


async def test_a_span_that_is_removed_leaves_no_memory_behind(checkpoints: Checkpoints) -> None:
    before = 0
    async with running(load("llama", checkpoints, WHOLE, torch.bfloat16, "cuda")) as harness:
        for _ in range(3):
            await harness.open(1, 4, 20)
            await harness.generate(1, PROMPTS[0][:4])
            await harness.engine.remove_span("span")
            gc.collect()
            torch.cuda.empty_cache()
            left = torch.cuda.memory_reserved()
            assert before in (0, left)
            before = left
            await harness.engine.add_span("span", load("llama", checkpoints, WHOLE, torch.bfloat16, "cuda"), 4_000_000)
