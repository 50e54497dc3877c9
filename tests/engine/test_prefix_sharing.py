"""Sessions of one engine that share KV, are cut back, fail and are cancelled."""

import asyncio
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from engine.harness import DEADLINE_S, MIDDLE, WHOLE, Harness, load, running
from families.fixtures import Checkpoints
from families.reference import generate_greedy, load_whole
from osai.core.errors import InternalError, InvalidRequestError, ResourceExhaustedError
from osai.core.prefix import block_hashes, shareable_hashes
from osai.core.sampling import SamplingParams
from osai.node.engine.api import SessionSpec
from osai.node.engine.kv_span import KVPart, StepKV
from osai.node.engine.options import EngineOptions

BEGIN = torch.randint(3, 370, (50,), generator=torch.Generator().manual_seed(5)).tolist()
NUM_TOKENS = 12
SMALL_STEPS = EngineOptions(max_prefill_tokens=20)


def spec(
    session: int,
    prompt: list[int],
    num_tokens: int = NUM_TOKENS,
    *,
    scope: str = "",
    hashes: tuple[bytes, ...] | None = None,
) -> SessionSpec:
    return SessionSpec(
        session=session,
        span="span",
        num_prompt_tokens=len(prompt),
        max_total_tokens=len(prompt) + num_tokens,
        sampling=SamplingParams(),
        block_hashes=shareable_hashes(prompt) if hashes is None else hashes,
        scope=scope,
    )


async def generate(harness: Harness, wish: SessionSpec, prompt: list[int]) -> tuple[list[int], int]:
    """(its tokens, how many of its prompt were cached); the session stays open."""
    cached = await harness.engine.open(wish)
    sampled = await harness.generate(wish.session, prompt[cached:], cached)
    return [token.token_id for token in sampled], cached


async def test_blocks_are_shared_within_a_scope_while_and_after_they_are_held(llama: Path) -> None:
    prompt = [*BEGIN, 7, 8]
    want = generate_greedy(load_whole(llama), prompt, NUM_TOKENS)
    async with running(load(llama, WHOLE)) as harness:
        free = harness.engine.num_free_kv_tokens("span")
        assert await generate(harness, spec(1, prompt), prompt) == (want, 0)
        assert harness.engine.num_free_kv_tokens("span") == free - 64
        assert await generate(harness, spec(2, prompt), prompt) == (want, 48)
        assert harness.engine.num_free_kv_tokens("span") == free - 64 - 16, "three blocks are shared"
        assert await generate(harness, spec(3, prompt, scope="mine"), prompt) == (want, 0)
        for session in (1, 2, 3):
            await harness.engine.close(session)
        assert harness.engine.num_free_kv_tokens("span") == free
        assert await generate(harness, spec(4, prompt), prompt) == (want, 48)
        short = prompt[:48]
        want = generate_greedy(load_whole(llama), short, NUM_TOKENS)
        assert await generate(harness, spec(5, short), short) == (want, 32), "a row must be left to run"


async def test_what_was_generated_is_shared_by_the_hashes_given_at_the_close(llama: Path) -> None:
    async with running(load(llama, WHOLE)) as harness:
        tokens, _ = await generate(harness, spec(1, BEGIN, num_tokens=30), BEGIN)
        all_tokens = BEGIN + tokens
        assert len(all_tokens) == 80, "of the last token there is no KV: its block is not complete"
        await harness.engine.close(1, block_hashes(all_tokens))
        turn = [*all_tokens, 5, 6]
        want = generate_greedy(load_whole(llama), turn, NUM_TOKENS)
        assert await generate(harness, spec(2, turn), turn) == (want, 64)


@pytest.mark.parametrize("family", ["llama", "gemma2", "llama4_scout"])
@pytest.mark.parametrize("position", [40, 32, 17, 0])
async def test_a_cut_into_shared_blocks_leaves_them_as_they_are(
    family: str, position: int, checkpoints: Checkpoints
) -> None:
    path, prompt = checkpoints(family), [*BEGIN, 7, 8]
    other = prompt[:position] + [(token + 1) % 370 for token in prompt[position:]]
    model = load_whole(path)
    want, other_want = (generate_greedy(model, p, NUM_TOKENS) for p in (prompt, other))
    async with running(load(path, WHOLE), SMALL_STEPS) as harness:
        free = harness.engine.num_free_kv_tokens("span")
        assert await generate(harness, spec(1, prompt), prompt) == (want, 0)
        cached = await harness.engine.open(spec(2, prompt))
        assert cached == 48
        harness.submit(2, cached, prompt[cached:])
        sampled = await harness.generate(2, other[position:], position, epoch=1)
        assert [s.token_id for s in sampled if s.epoch == 1] == other_want
        for session in (1, 2):
            await harness.engine.close(session)
        assert await generate(harness, spec(3, prompt), prompt) == (want, 48)
        assert (await generate(harness, spec(4, other), other))[0] == other_want
        for session in (3, 4):
            await harness.engine.close(session)
        assert harness.engine.num_free_kv_tokens("span") == free


async def test_windows_keep_no_more_than_they_show_and_say_so(checkpoints: Checkpoints) -> None:
    path = checkpoints("mistral_window")
    prompt = BEGIN * 4
    want = generate_greedy(load_whole(path), prompt, NUM_TOKENS)
    async with running(load(path, WHOLE), SMALL_STEPS, 400_000) as harness:
        free = harness.engine.num_free_kv_tokens("span")
        assert free == 512, "the model's context: a window is all that a session takes"
        tokens, _ = await generate(harness, spec(1, prompt, hashes=()), prompt)
        assert tokens == want
        with pytest.raises(InvalidRequestError, match=r"can't be cut to 150.*cut it to 191 or later, or to 0"):
            await harness.engine.cut(1, 150)
        with pytest.raises(InvalidRequestError, match="cut it to 191 or later"):
            harness.submit(1, 150, prompt[150:])
        again = await harness.generate(1, prompt[191:], 191, epoch=1)
        assert [s.token_id for s in again] == want
        again = await harness.generate(1, prompt, 0, epoch=2)
        assert [s.token_id for s in again] == want
        await harness.engine.close(1)
        assert harness.engine.num_free_kv_tokens("span") == free


async def test_a_cut_past_a_window_finds_known_blocks_again(checkpoints: Checkpoints) -> None:
    path = checkpoints("mistral_window")
    prompt = BEGIN * 4
    want = generate_greedy(load_whole(path), prompt, NUM_TOKENS)
    async with running(load(path, WHOLE), SMALL_STEPS) as harness:
        assert await generate(harness, spec(1, prompt), prompt) == (want, 0)
        again = await harness.generate(1, prompt[75:], 75, epoch=1)
        assert [s.token_id for s in again] == want


async def test_a_shared_block_that_can_not_be_replaced_is_refused(llama: Path) -> None:
    prompt = [*BEGIN[:32], 7]
    async with running(load(llama, WHOLE), kv_budget_bytes=9 * 16 * 1536 * 2) as harness:
        free = harness.engine.num_free_kv_tokens("span")
        want, _ = await generate(harness, spec(1, prompt), prompt)
        cached = await harness.engine.open(spec(2, prompt))
        await harness.engine.open(spec(3, [5] * 8, harness.engine.num_free_kv_tokens("span") - 8))
        with pytest.raises(ResourceExhaustedError, match=r"2 KV blocks are shared .* and 0 are free"):
            harness.submit(2, 8, prompt[8:])
        sampled = await harness.generate(2, prompt[cached:], cached)
        assert [s.token_id for s in sampled] == want, "it can go on from where it was"
        await harness.engine.close(3)
        again = await harness.generate(2, prompt[8:], 8, epoch=1)
        assert [s.token_id for s in again] == want
        for session in (1, 2):
            await harness.engine.close(session)
        assert harness.engine.num_free_kv_tokens("span") == free


async def test_nothing_of_a_failed_session_is_shared(llama: Path) -> None:
    model = load(llama, MIDDLE)
    async with running(model, SMALL_STEPS) as harness:

        def spoil(_: object, __: object, out: torch.Tensor) -> torch.Tensor:
            return out * torch.nan if out.shape[1] == 10 else out

        hook = model.decoder.layers[-1].register_forward_hook(spoil)
        await harness.engine.open(spec(1, BEGIN))
        harness.submit(1, 0, torch.ones(50, 64))
        failed = (await harness.output(2)).failed
        assert [type(error) for _, error in failed] == [InternalError]
        hook.remove()
        assert await harness.engine.open(spec(2, BEGIN)) == 0
        harness.submit(2, 0, torch.ones(50, 64))
        await harness.output(5)
        assert await harness.engine.open(spec(3, BEGIN)) == 48


async def test_rows_before_a_cut_are_computed_even_if_their_step_had_not_begun(llama: Path) -> None:
    """The cut falls between the moment when the step's rows are taken, and when the thread looks at the blocks."""
    prompt = [*BEGIN, 7, 8]
    want = generate_greedy(load_whole(llama), prompt, NUM_TOKENS)
    async with running(load(llama, WHOLE)) as harness:
        await harness.engine.open(spec(1, prompt))
        kv = harness.engine._admission.span("span").kv
        taken, may_begin = asyncio.Event(), threading.Event()
        begin_step, loop = kv.begin_step, asyncio.get_running_loop()

        def held(parts: Sequence[KVPart]) -> StepKV:
            if not taken.is_set():
                loop.call_soon_threadsafe(taken.set)
                assert may_begin.wait(DEADLINE_S)
            return begin_step(parts)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kv, "begin_step", held)
            harness.submit(1, 0, prompt)
            await taken.wait()
            await harness.engine.cut(1, 40)
            may_begin.set()
            sampled = await harness.generate(1, prompt[40:], 40, epoch=1)
        assert [s.token_id for s in sampled] == want
        await harness.engine.close(1)
        assert await harness.engine.open(spec(2, prompt)) == 48, "all of it is known to be computed"


async def test_hashes_that_make_no_sense_are_refused(llama: Path) -> None:
    async with running(load(llama, WHOLE)) as harness:
        for hashes in ((b"x" * 16,) * 4, (b"short",)):
            with pytest.raises(InvalidRequestError, match=f"{len(hashes)} block hashes for 50 prompt tokens"):
                await harness.engine.open(spec(1, BEGIN, hashes=hashes))
    async with running(load(llama, WHOLE), EngineOptions(block_size=8)) as harness:
        assert (await generate(harness, spec(1, BEGIN), BEGIN))[1] == 0
        await harness.engine.close(1, block_hashes(BEGIN))
        assert (await generate(harness, spec(2, BEGIN), BEGIN))[1] == 0, "blocks of another size have no names"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_sessions_do_all_blocks_come_back(family: str, seed: int, checkpoints: Checkpoints) -> None:
    """Random joins, cancels at any moment and cut-backs in little memory; who is left alone gets its own tokens."""
    path, dice = checkpoints(family), random.Random(seed)
    prompts = [[*BEGIN[:length], tail] for length in (10, 33, 50) for tail in (7, 8)]
    model = load_whole(path)
    want = [generate_greedy(model, prompt, NUM_TOKENS) for prompt in prompts]
    async with running(load(path, WHOLE), SMALL_STEPS, 300_000) as harness:
        free = harness.engine.num_free_kv_tokens("span")
        num_finished = 0

        async def live(session: int) -> None:
            nonlocal num_finished
            which, fate = dice.randrange(len(prompts)), dice.choice(["cancel", "cut back", "finish"])
            prompt = prompts[which]
            cached = await _open_when_there_is_room(harness, spec(session, prompt))
            life = asyncio.ensure_future(harness.generate(session, prompt[cached:], cached))
            if fate != "finish":
                await asyncio.sleep(dice.random() * 0.05)
                life.cancel()
            try:
                if fate == "cut back":
                    at = dice.randrange(len(prompt))
                    life = asyncio.ensure_future(harness.generate(session, prompt[at:], at, epoch=1))
                if fate != "cancel":
                    assert [token.token_id for token in await life] == want[which]
                    num_finished += 1
            except (ResourceExhaustedError, InvalidRequestError):  # shared blocks, or what windows have left behind
                assert fate == "cut back"
            await harness.engine.close(session, block_hashes(prompt + want[which]))

        async with asyncio.timeout(60):
            await asyncio.gather(*(live(session) for session in range(30)))
        assert num_finished > 5
        assert harness.engine.num_free_kv_tokens("span") == free


async def _open_when_there_is_room(harness: Harness, spec: SessionSpec) -> int:
    while True:
        try:
            return await harness.engine.open(spec)
        except ResourceExhaustedError:
            await asyncio.sleep(0.005)
