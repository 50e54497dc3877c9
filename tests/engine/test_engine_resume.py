"""A session that goes on in a later epoch gives the tokens that it would have given undisturbed."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from engine.harness import PROMPT, WHOLE, Gate, Harness, load, running
from families.fixtures import Checkpoints
from osai.core.errors import InvalidRequestError, UnknownSessionError
from osai.core.sampling import SamplingParams
from osai.node.engine.api import SessionSpec
from osai.node.engine.options import EngineOptions

GREEDY = SamplingParams()
SEEDED = SamplingParams(temperature=1.3, top_p=0.95, seed=11)
PENALTIES = replace(SEEDED, repetition_penalty=1.1, frequency_penalty=0.3, presence_penalty=0.2)
CASES = [("llama", GREEDY), ("llama", SEEDED), ("llama", PENALTIES), ("gemma2", SEEDED), ("mistral_window", PENALTIES)]
LONG = [(7 * i + 3) % 380 for i in range(100)]  # longer than the windows of the checkpoints
NUM_TOKENS, NUM_KNOWN = 24, 9  # generated in all, and before the resumption
SMALL_STEPS = EngineOptions(max_prefill_tokens=16)


def spec(sampling: SamplingParams, prompt: list[int], generated: list[int] | None = None) -> SessionSpec:
    """Session 1, with what has been generated of it already."""
    known = prompt + (generated or [])
    return SessionSpec(
        session=1,
        span="span",
        num_prompt_tokens=len(prompt),
        max_total_tokens=len(prompt) + NUM_TOKENS,
        sampling=sampling,
        prompt_token_ids=tuple(known) if sampling.needs_history else (),
        num_known_tokens=len(known),
    )


async def undisturbed(path: Path, sampling: SamplingParams, prompt: list[int]) -> list[int]:
    async with running(load(path, WHOLE), SMALL_STEPS) as harness:
        await harness.engine.open(spec(sampling, prompt))
        tokens = [s.token_id for s in await harness.generate(1, prompt)]
    assert len(tokens) == NUM_TOKENS
    return tokens


async def some_tokens(harness: Harness, prompt: list[int], count: int) -> list[int]:
    """Prefill and draw: `count` tokens, all of which but the last are fed."""
    tokens: list[int] = []
    harness.submit(1, 0, prompt)
    while len(tokens) < count:
        if tokens:
            harness.submit(1, len(prompt) + len(tokens) - 1, tokens[-1:])
        seen = len(harness.outputs)
        while not (drawn := [s for output in harness.outputs[seen:] for s in output.sampled]):
            await harness.output(len(harness.outputs))
        tokens.append(drawn[0].token_id)
    return tokens


async def rest(harness: Harness, known: list[int], position: int, epoch: int = 2) -> tuple[list[int], list[int]]:
    """What is drawn in a later epoch once the rows [position, len(known)) have come: indices and tokens."""
    sampled = await harness.generate(1, known[position:], position, epoch)
    assert {s.epoch for s in sampled} == {epoch}
    return [s.index for s in sampled], [s.token_id for s in sampled]


@pytest.mark.parametrize(("family", "sampling"), CASES)
async def test_a_survivor_goes_on_in_mid_decode(
    checkpoints: Checkpoints, family: str, sampling: SamplingParams
) -> None:
    """Rows that the coordinator has no token of are in hand or through: they are cut, and drawn again."""
    path = checkpoints(family)
    tokens = await undisturbed(path, sampling, LONG)
    async with running(load(path, WHOLE), SMALL_STEPS) as harness:
        await harness.engine.open(spec(sampling, LONG))
        assert await some_tokens(harness, LONG, NUM_KNOWN) == tokens[:NUM_KNOWN]
        known = LONG + tokens[: NUM_KNOWN - 2]
        harness.submit(1, len(LONG) + NUM_KNOWN - 1, tokens[NUM_KNOWN - 1 : NUM_KNOWN])
        await harness.engine.resume(spec(sampling, LONG, tokens[: NUM_KNOWN - 2]), len(known) - 1)
        expected = list(range(NUM_KNOWN - 2, NUM_TOKENS))
        assert await rest(harness, known, len(known) - 1) == (expected, tokens[NUM_KNOWN - 2 :])


@pytest.mark.parametrize(("family", "sampling"), CASES)
async def test_a_survivor_goes_on_in_mid_prefill(
    checkpoints: Checkpoints, family: str, sampling: SamplingParams
) -> None:
    path = checkpoints(family)
    tokens = await undisturbed(path, sampling, LONG)
    model = load(path, WHOLE)
    async with running(model, SMALL_STEPS) as harness:
        await harness.engine.open(spec(sampling, LONG))
        harness.submit(1, 0, LONG[:32])
        await harness.output(1)
        gate = Gate(model)
        harness.submit(1, 32, LONG[32:])
        await gate.reached()  # rows [32, 48) are in hand, the rest waits
        await harness.engine.resume(spec(sampling, LONG), 32)
        gate.open()
        assert await rest(harness, LONG, 32) == (list(range(NUM_TOKENS)), tokens)


@pytest.mark.parametrize(("family", "sampling"), CASES)
async def test_a_new_stage_takes_over_by_prefill(
    checkpoints: Checkpoints, family: str, sampling: SamplingParams
) -> None:
    """Chunks that end in the middle of what is known draw nothing."""
    path = checkpoints(family)
    tokens = await undisturbed(path, sampling, LONG)
    async with running(load(path, WHOLE), SMALL_STEPS) as harness:
        assert await harness.engine.open(spec(sampling, LONG, tokens[:NUM_KNOWN])) == 0
        for start, end in ((0, 40), (40, 104)):
            harness.submit(1, start, (LONG + tokens)[start:end], epoch=2)
        assert await rest(harness, LONG + tokens[:NUM_KNOWN], 104) == (
            list(range(NUM_KNOWN, NUM_TOKENS)),
            tokens[NUM_KNOWN:],
        )
        assert sum(len(output.sampled) for output in harness.outputs) == NUM_TOKENS - NUM_KNOWN


async def test_a_session_is_resumed_twice_in_a_row(llama: Path) -> None:
    tokens = await undisturbed(llama, PENALTIES, PROMPT)
    async with running(load(llama, WHOLE)) as harness:
        await harness.engine.open(spec(PENALTIES, PROMPT))
        await some_tokens(harness, PROMPT, NUM_KNOWN)
        for num_known in (NUM_KNOWN, NUM_KNOWN - 1):
            known = PROMPT + tokens[:num_known]
            await harness.engine.resume(spec(PENALTIES, PROMPT, tokens[:num_known]), len(known) - 1)
        assert (await rest(harness, known, len(known) - 1))[1] == tokens[num_known:]


async def test_a_step_in_hand_does_not_touch_what_a_resumed_tail_knows(llama: Path) -> None:
    """It noted its token in the new history, which ended there: penalties lacked the tokens behind it."""
    tokens = await undisturbed(llama, PENALTIES, PROMPT)
    model = load(llama, WHOLE)
    async with running(model) as harness:
        await harness.engine.open(spec(PENALTIES, PROMPT))
        drawn = await some_tokens(harness, PROMPT, 4)
        gate = Gate(model)
        harness.submit(1, len(PROMPT) + 3, drawn[3:])  # it draws token 4 ...
        await gate.reached()
        known = PROMPT + tokens[:NUM_KNOWN]  # ... when others have gone on from there already
        await harness.engine.resume(spec(PENALTIES, PROMPT, tokens[:NUM_KNOWN]), len(PROMPT) + 3)
        gate.open()
        assert (await rest(harness, known, len(PROMPT) + 3))[1] == tokens[NUM_KNOWN:]


async def test_a_resumption_past_a_window_is_refused_and_the_session_goes_on(checkpoints: Checkpoints) -> None:
    path = checkpoints("mistral_window")
    tokens = await undisturbed(path, GREEDY, LONG)
    async with running(load(path, WHOLE), SMALL_STEPS) as harness:
        await harness.engine.open(spec(GREEDY, LONG))
        await some_tokens(harness, LONG, NUM_KNOWN)
        with pytest.raises(InvalidRequestError, match="can't be cut to 50"):
            await harness.engine.resume(spec(GREEDY, LONG), 50)
        known = LONG + tokens[:NUM_KNOWN]
        await harness.engine.resume(spec(GREEDY, LONG, tokens[:NUM_KNOWN]), 0)
        assert (await rest(harness, known, 0))[1] == tokens[NUM_KNOWN:]


async def test_what_can_not_be_gone_on_with_is_refused(llama: Path) -> None:
    async with running(load(llama, WHOLE)) as harness:
        with pytest.raises(UnknownSessionError):
            await harness.engine.resume(spec(GREEDY, PROMPT), 0)
        await harness.engine.open(spec(GREEDY, PROMPT))
        await some_tokens(harness, PROMPT, 2)
        wishes = [
            (replace(spec(GREEDY, PROMPT), max_total_tokens=99), 0, "can't go on with others"),
            (spec(GREEDY, PROMPT), len(PROMPT), "not from 8"),
            (spec(GREEDY, PROMPT, [1] * 9), len(PROMPT) + 2, "is at 9 .* not from 10"),
            (spec(GREEDY, PROMPT), -1, "not from -1"),
            (spec(GREEDY, PROMPT, [1] * 25), 0, "33 known tokens; .* 32 at most"),
            (replace(spec(PENALTIES, PROMPT, [1] * 4), prompt_token_ids=tuple(PROMPT)), 0, "prompt_token_ids has 8"),
        ]
        for wish, position, words in wishes:
            with pytest.raises(InvalidRequestError, match=words):
                await harness.engine.resume(wish, position)
        await asyncio.sleep(0)
        assert harness.engine.num_waiting_rows("span") == 0
