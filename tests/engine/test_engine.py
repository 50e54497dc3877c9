"""What an engine gives: hidden states and tokens, whatever comes beside or in between."""

import asyncio
from pathlib import Path

import pytest
import torch

from engine.harness import LATER, MIDDLE, PROMPT, WHOLE, Gate, load, running
from families.fixtures import Checkpoints
from families.reference import generate_greedy, load_whole
from osai.core.errors import (
    InvalidRequestError,
    UnknownModelError,
    UnknownSessionError,
)
from osai.node.engine.options import EngineOptions


async def test_greedy_generation_to_its_limit(llama: Path, reference: list[int]) -> None:
    async with running(load(llama, WHOLE)) as harness:
        await harness.open(1)
        sampled = await harness.generate(1, PROMPT)
        assert [s.token_id for s in sampled] == reference
        assert [s.index for s in sampled] == list(range(32))
        assert [s.finish for s in sampled] == [None] * 31 + ["length"]
        assert all(output.hidden is None and output.step_time_s > 0 for output in harness.outputs)


async def test_a_stop_token_ends_a_generation(llama: Path, reference: list[int]) -> None:
    async with running(load(llama, WHOLE)) as harness:
        await harness.open(1, stop_token_ids=frozenset({reference[4]}))
        sampled = await harness.generate(1, PROMPT)
        first = reference.index(reference[4])
        assert [s.token_id for s in sampled] == reference[: first + 1]
        assert sampled[-1].finish == "stop"


async def test_hidden_states_leave_as_they_are_needed_next(llama: Path) -> None:
    async with running(load(llama, MIDDLE, torch.bfloat16)) as harness:
        await harness.open(1)
        await harness.open(2)
        hidden = torch.randn(3, 64).bfloat16()
        harness.submit(1, 0, hidden)
        output = await harness.output(0)
        assert output.hidden is not None
        assert (output.hidden.shape, output.hidden.dtype) == ((3, 64), torch.bfloat16)
        assert output.hidden.is_contiguous()
        assert [(r.session, r.position, r.count) for r in output.rows] == [(1, 0, 3)]


async def test_rows_that_come_during_a_step_make_the_next_one(llama: Path) -> None:
    model = load(llama, WHOLE)
    async with running(model) as harness:
        for session in range(4):
            await harness.open(session)
        gate = Gate(model)
        harness.submit(0, 0, PROMPT)
        await gate.reached()
        for session in (1, 2, 3):
            harness.submit(session, 0, PROMPT)
        assert harness.engine.num_waiting_rows("span") == 24
        gate.open()
        output = await harness.output(1)
        assert [rows.session for rows in output.rows] == [1, 2, 3]
        assert len({sampled.token_id for sampled in output.sampled}) == 1
        assert harness.engine.num_waiting_rows("span") == 0


async def test_rows_that_are_submitted_in_one_go_make_one_step(llama: Path) -> None:
    """However idle the thread is: else the first of a batch of decode rows would make a step of its own."""
    async with running(load(llama, WHOLE)) as harness:
        for session in range(8):
            await harness.open(session)
        for number in range(10):
            for session in range(8):
                harness.submit(session, 8 * (number > 0) + max(number - 1, 0), [5] if number else PROMPT)
            output = await harness.output(number)
            assert [rows.session for rows in output.rows] == list(range(8))


async def test_a_prompt_longer_than_may_ever_wait_is_refused(llama: Path) -> None:
    async with running(load(llama, WHOLE), EngineOptions(max_waiting_rows=7)) as harness:
        await harness.open(1)
        with pytest.raises(InvalidRequestError, match=r"8 rows of one session would wait, and no more than 7 may"):
            harness.submit(1, 0, PROMPT)
        assert harness.engine.num_waiting_rows("span") == 0


async def test_prompts_are_cut_into_chunks_and_sampled_once(llama: Path, reference: list[int]) -> None:
    async with running(load(llama, WHOLE), EngineOptions(max_prefill_tokens=3)) as harness:
        await harness.open(1)
        harness.submit(1, 0, PROMPT)
        outputs = [await harness.output(i) for i in range(3)]
        assert [o.rows[0].count for o in outputs] == [3, 3, 2]
        assert [len(o.sampled) for o in outputs] == [0, 0, 1]
        assert outputs[2].sampled[0].token_id == reference[0]


async def test_a_closed_session_is_gone_between_chunks(llama: Path, reference: list[int]) -> None:
    model = load(llama, WHOLE)
    async with running(model, EngineOptions(max_prefill_tokens=4), 300_000) as harness:
        free = harness.engine.num_free_kv_tokens("span")
        await harness.open(1, max_total_tokens=free)
        assert harness.engine.num_free_kv_tokens("span") == 0
        gate = Gate(model)
        harness.submit(1, 0, PROMPT * 3)
        await gate.reached()
        await harness.engine.close(1)
        await harness.engine.close(1)
        assert harness.engine.num_free_kv_tokens("span") == free
        assert harness.engine.num_waiting_rows("span") == 0
        await harness.open(1)  # the same number, and blocks into which the step in hand still writes
        gate.open()
        assert [s.token_id for s in await harness.generate(1, PROMPT)] == reference
        assert harness.outputs[0].rows[0].epoch == 0
        assert all(rows.position + rows.count <= 40 for output in harness.outputs for rows in output.rows)
        assert sum(rows.count for output in harness.outputs for rows in output.rows) == len(PROMPT) + 31


async def test_a_cut_drops_what_waits_and_what_is_in_flight(llama: Path, reference: list[int]) -> None:
    model = load(llama, WHOLE)
    async with running(model) as harness:
        await harness.open(1)
        gate = Gate(model)
        harness.submit(1, 0, PROMPT[:4])
        await gate.reached()
        harness.submit(1, 4, LATER)
        await harness.engine.cut(1, 3)
        gate.open()
        sampled = await harness.generate(1, PROMPT[3:], position=3, epoch=1)
        assert [s.token_id for s in sampled] == reference
        assert harness.outputs[0].rows[0].position == 3, "the step in flight had one row too many"


async def test_several_models_take_turns(llama: Path, checkpoints: Checkpoints, reference: list[int]) -> None:
    first, second = load(llama, WHOLE), load(checkpoints("gemma2"), WHOLE)
    want = generate_greedy(load_whole(checkpoints("gemma2")), PROMPT, 32)
    async with running(first, EngineOptions(max_prefill_tokens=2)) as harness:
        await harness.engine.add_span("second", second, 1_000_000)
        for session in (1, 2, 3):
            await harness.open(session)
            await harness.open(session + 10, span="second")
        gate = Gate(first)
        for session in (1, 2, 3):
            harness.submit(session, 0, PROMPT)
            harness.submit(session + 10, 0, PROMPT)
        await gate.reached()
        gate.open()
        spans = [(await harness.output(i)).span for i in range(24)]
        assert spans == ["span", "second"] * 12
        await harness.engine.remove_span("span")
        await harness.engine.remove_span("span")
        with pytest.raises(UnknownSessionError):
            harness.submit(1, 8, LATER)
        with pytest.raises(UnknownModelError):
            harness.engine.num_free_kv_tokens("span")
        assert [s.token_id for s in await harness.generate(11, PROMPT)] == want
        await harness.engine.add_span("span", load(llama, WHOLE), 1_000_000)
        await harness.open(1)
        assert [s.token_id for s in await harness.generate(1, PROMPT)] == reference


async def test_the_thread_has_its_own_number_of_torch_threads(llama: Path) -> None:
    async with running(load(llama, WHOLE), EngineOptions(num_threads=3)) as harness:
        call = harness.engine._mailbox.call(torch.get_num_threads)
        assert await asyncio.wrap_future(call) == 3
    torch.set_num_threads(1)
