"""The tail draws the same tokens whatever happens around it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from engine.harness import LATER, PROMPT, WHOLE, load, running
from osai.core.errors import (
    InvalidRequestError,
)
from osai.core.sampling import SamplingParams

RANDOM = SamplingParams(
    temperature=1.3, top_p=0.95, seed=11, repetition_penalty=1.1, frequency_penalty=0.3, presence_penalty=0.2
)


async def test_sampling_does_not_depend_on_the_batch(llama: Path) -> None:
    async with running(load(llama, WHOLE)) as harness:
        await harness.open(1, sampling=RANDOM, prompt_token_ids=PROMPT)
        alone = [s.token_id for s in await harness.generate(1, PROMPT)]
        for session in (2, 3, 4):
            params = RANDOM if session != 3 else replace(RANDOM, seed=12)
            await harness.open(session, sampling=params, prompt_token_ids=PROMPT)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(harness.generate(session, PROMPT)) for session in (2, 3, 4)]
        tokens = [[s.token_id for s in task.result()] for task in tasks]
        assert tokens[0] == tokens[2] == alone
        assert tokens[1] != alone


async def test_a_cut_takes_back_what_was_drawn(llama: Path) -> None:
    """Penalties see the tokens that are left, and no others."""
    async with running(load(llama, WHOLE)) as harness:
        await harness.open(1, sampling=RANDOM, prompt_token_ids=PROMPT)
        tokens = [s.token_id for s in await harness.generate(1, PROMPT)]
        again = await harness.generate(1, tokens[9:11], position=8 + 9, epoch=1)
        assert [s.token_id for s in again] == tokens[11:]
        assert {s.epoch for s in again} == {1}


async def test_another_tail_goes_on_where_the_lost_one_stopped(llama: Path) -> None:
    async with running(load(llama, WHOLE)) as harness, running(load(llama, WHOLE)) as spare:
        await harness.open(1, sampling=RANDOM, prompt_token_ids=PROMPT)
        tokens = [s.token_id for s in await harness.generate(1, PROMPT)]
        await spare.open(1, sampling=RANDOM, prompt_token_ids=PROMPT + tokens[:10])
        rest = await spare.generate(1, PROMPT + tokens[:10], epoch=1)
        assert [s.token_id for s in rest] == tokens[10:]
        assert rest[0].index == 10


async def test_a_tail_that_was_not_told_what_penalties_need_says_so(llama: Path) -> None:
    async with running(load(llama, WHOLE)) as harness:
        await harness.open(1, sampling=RANDOM, prompt_token_ids=PROMPT)
        with pytest.raises(InvalidRequestError, match="token 3 needs the 3 before it"):
            await harness.generate(1, PROMPT + LATER)


async def test_logprobs_come_with_the_tokens(llama: Path) -> None:
    async with running(load(llama, WHOLE)) as harness:
        await harness.open(1, sampling=SamplingParams(num_logprobs=2))
        for sampled in await harness.generate(1, PROMPT):
            assert sampled.top[0] == (sampled.token_id, sampled.logprob)
            assert len(sampled.top) == 2
            assert sampled.logprob is not None
            assert sampled.logprob < 0
