"""What an engine lets in, and how it refuses the rest."""

import math
from pathlib import Path

import pytest
import torch

from engine.harness import END, MIDDLE, PROMPT, WHOLE, Gate, Harness, load, running
from families.fixtures import Checkpoints
from osai.core.errors import (
    BadFrameError,
    InvalidRequestError,
    OsaiError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownModelError,
    UnknownSessionError,
)
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.node.engine.options import EngineOptions


async def test_no_room_is_refused_with_figures_until_there_is(llama: Path) -> None:
    async with running(load(llama, WHOLE), kv_budget_bytes=300_000) as harness:
        free = harness.engine.num_free_kv_tokens("span")
        await harness.open(1, max_total_tokens=free - 16)
        with pytest.raises(
            ResourceExhaustedError, match=r"17 tokens need 2 more KV blocks of 16, and 1 of \d+ are free"
        ):
            await harness.open(2, max_total_tokens=17)
        await harness.engine.close(1)
        await harness.open(2, max_total_tokens=17)


async def test_what_can_never_fit_is_told_apart_from_what_does_not_fit_now(llama: Path) -> None:
    async with running(load(llama, WHOLE), kv_budget_bytes=300_000) as harness:
        free = harness.engine.num_free_kv_tokens("span")
        await harness.open(1, max_total_tokens=free)
        with pytest.raises(ResourceExhaustedError, match="0 of 10 are free"):
            await harness.open(2, max_total_tokens=free)
        with pytest.raises(InvalidRequestError, match=f"{free + 1} tokens can never fit, this stage holds {free}"):
            await harness.open(2, max_total_tokens=free + 1)


async def test_what_a_span_takes_is_measured(llama: Path) -> None:
    for layers, dtype, per_token in ((MIDDLE, torch.float32, 3 * 2 * 32 * 4), (END, torch.bfloat16, 2 * 2 * 32 * 2)):
        async with running(load(llama, layers, dtype), kv_budget_bytes=100 * 16 * per_token) as harness:
            info = await harness.engine.add_span("other", load(llama, layers, dtype), 50 * 16 * per_token + 1)
            assert info.kv_bytes_per_token == per_token
            assert info.num_kv_tokens == 48 * 16, "two blocks are the cache's own"
            assert (info.layers, info.block_size) == (layers, 16)
            assert harness.engine.num_free_kv_tokens("span") == 98 * 16


async def test_a_budget_for_nothing_is_refused(llama: Path) -> None:
    async with running(load(llama, WHOLE)) as harness:
        with pytest.raises(
            ResourceExhaustedError, match="budget of 1000 bytes is too small: a block of 16 tokens takes"
        ):
            await harness.engine.add_span("other", load(llama, WHOLE), 1000)
        with pytest.raises(InvalidRequestError, match="hosted already"):
            await harness.engine.add_span("span", load(llama, WHOLE), 1_000_000)


async def test_latent_caches_are_smaller(checkpoints: Checkpoints) -> None:
    model = load(checkpoints("deepseek_v3"), MIDDLE, torch.bfloat16)
    async with running(model) as harness:
        info = await harness.engine.add_span("other", load(checkpoints("deepseek_v3"), MIDDLE, torch.bfloat16), 10**6)
        assert info.kv_bytes_per_token == 3 * (16 + 8) * 2


@pytest.mark.parametrize(
    ("position", "tokens", "error", "message"),
    [
        (4, [1], BadFrameError, "leave a gap, 3 is next"),
        (-1, [1], BadFrameError, "leave a gap"),
        (3, [1] * 38, BadFrameError, "none past 40"),
        (3, [], BadFrameError, "at least 1"),
        (3, [384], BadFrameError, "of a vocabulary of 384"),
        (3, [-1], BadFrameError, "token ids -1"),
        (3, torch.tensor([1], dtype=torch.int32), BadFrameError, "must come as torch.int64"),
        (3, torch.zeros(1, 64), BadFrameError, "must come as torch.int64"),
    ],
)
async def test_frames_that_do_not_fit_are_refused(
    llama: Path, position: int, tokens: list[int] | torch.Tensor, error: type[OsaiError], message: str
) -> None:
    async with running(load(llama, WHOLE)) as harness:
        await harness.open(1)
        harness.submit(1, 0, PROMPT[:3])
        with pytest.raises(error, match=message):
            harness.submit(1, position, tokens)
        harness.submit(1, 3, PROMPT[3:])  # the session is as it was


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (torch.zeros(1, 64), r"must come as torch.bfloat16 \[1, 64\], not as torch.float32"),
        (torch.zeros(1, 63).bfloat16(), r"not as torch.bfloat16 \[1, 63\]"),
        (torch.full((1, 64), math.nan).bfloat16(), "not finite"),
        (torch.tensor([[0.0] * 63 + [-math.inf]]).bfloat16(), "not finite"),
        (torch.tensor([[0.0] * 63 + [math.inf]]).bfloat16(), "not finite"),
    ],
)
async def test_hidden_states_that_do_not_fit_are_refused(llama: Path, hidden: torch.Tensor, message: str) -> None:
    async with running(load(llama, MIDDLE, torch.bfloat16)) as harness:
        await harness.open(1)
        with pytest.raises(BadFrameError, match=message):
            harness.submit(1, 0, hidden)


async def test_sessions_that_make_no_sense_are_refused(llama: Path) -> None:
    async with running(load(llama, WHOLE)) as harness:
        with pytest.raises(UnknownModelError, match=r"span other is not hosted here; \['span'\] is"):
            await harness.open(1, span="other")
        with pytest.raises(InvalidRequestError, match="leaves no room"):
            await harness.open(1, 40, 40)
        with pytest.raises(InvalidRequestError, match="prompt of 0 tokens"):
            await harness.open(1, 0, 40)
        with pytest.raises(InvalidRequestError, match="penalties need the prompt's 8 tokens"):
            await harness.open(1, sampling=SamplingParams(presence_penalty=1), prompt_token_ids=PROMPT[:7])
        await harness.open(1)
        with pytest.raises(InvalidRequestError, match="open already"):
            await harness.open(1)
        with pytest.raises(UnknownSessionError, match="session 2"):
            harness.submit(2, 0, PROMPT)
        with pytest.raises(UnknownSessionError, match="session 2"):
            await harness.engine.cut(2, 0)
        with pytest.raises(InvalidRequestError, match="can't be cut to 1"):
            await harness.engine.cut(1, 1)


async def test_too_many_waiting_rows_are_refused(llama: Path) -> None:
    model = load(llama, WHOLE)
    async with running(model, EngineOptions(max_waiting_rows=20)) as harness:
        for session in (1, 2, 3):
            await harness.open(session)
        gate = Gate(model)
        harness.submit(1, 0, PROMPT)
        await gate.reached()
        harness.submit(1, 8, PROMPT)
        harness.submit(2, 0, PROMPT)
        with pytest.raises(ResourceExhaustedError, match="16 rows wait"):
            harness.submit(3, 0, PROMPT)
        gate.open()
        await harness.output(1)
        harness.submit(3, 0, PROMPT)
        assert (await harness.output(2)).sampled[0].index == 0


async def test_before_its_start_an_engine_takes_nothing(llama: Path) -> None:
    harness = Harness()
    with pytest.raises(UnavailableError, match="not been started"):
        await harness.engine.add_span("span", load(llama, WHOLE), 1_000_000)
    with pytest.raises(UnavailableError, match="not been started"):
        await harness.open(1)


@pytest.mark.parametrize("layers", [WHOLE, MIDDLE, END])
async def test_measuring_disturbs_nobody(llama: Path, layers: LayerRange) -> None:
    async with running(load(llama, layers), kv_budget_bytes=300_000) as harness:
        await harness.open(1, max_total_tokens=harness.engine.num_free_kv_tokens("span"))
        seconds = await harness.engine.measure("span")
        assert 0 < seconds < 5
        with pytest.raises(UnknownModelError):
            await harness.engine.measure("other")
