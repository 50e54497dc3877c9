"""Vectors of prompts, as the tail makes them of rows that come in chunks."""

from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.harness import PROMPT, WHOLE, Harness, load, running
from families.reference import load_whole
from osai.core.errors import InternalError, InvalidRequestError
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Sampled, SessionSpec
from osai.node.engine.options import EngineOptions
from osai.node.engine.pooling import Pool

LONG = PROMPT * 6


def vector_of(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.float32)


@given(st.integers(1, 40), st.lists(st.integers(1, 39)), st.sampled_from(["mean", "last"]), st.integers(0, 99))
def test_chunks_make_no_difference(count: int, cuts: list[int], pooling: Literal["mean", "last"], seed: int) -> None:
    hidden = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    pool, bounds = Pool(pooling, count), sorted({0, count, *(cut for cut in cuts if cut < count)})
    given_out = [pool.add(start, hidden[start:end]) for start, end in pairwise(bounds)]
    assert given_out[:-1] == [None] * (len(given_out) - 1)
    pooled = hidden.double().mean(0) if pooling == "mean" else hidden[-1].double()
    torch.testing.assert_close(vector_of(given_out[-1] or b"").double(), pooled / pooled.norm(), atol=1e-6, rtol=0)


def test_a_mean_of_some_rows_is_refused_and_one_that_begins_anew_is_not() -> None:
    pool, rows = Pool("mean", 4), torch.ones(2, 3)
    with pytest.raises(InvalidRequestError, match="rows from 2 on came where 0 was due"):
        pool.add(2, rows)
    pool.add(0, rows * 5)
    pool.add(0, rows)
    assert vector_of(pool.add(2, rows) or b"").tolist() == pytest.approx([3**-0.5] * 3)
    assert Pool("last", 4).add(3, rows[:1]) is not None, "the last row alone is enough, where others' KV is cached"


@pytest.mark.parametrize("rows", [torch.zeros(1, 3), torch.full((1, 3), torch.nan), torch.full((1, 3), torch.inf)])
def test_rows_without_a_direction_give_none(rows: torch.Tensor) -> None:
    with pytest.raises(InternalError, match="a vector of length"):
        Pool("mean", 1).add(0, rows)


async def embedded(harness: Harness, session: int, tokens: list[int], pooling: Literal["mean", "last"]) -> Sampled:
    spec = SessionSpec(
        session=session,
        span="span",
        num_prompt_tokens=len(tokens),
        max_total_tokens=len(tokens) + 1,
        sampling=SamplingParams(),
        pooling=pooling,
    )
    await harness.engine.open(spec)
    return (await harness.generate(session, tokens))[-1]


@pytest.mark.parametrize("pooling", ["mean", "last"])
async def test_the_engine_gives_the_final_norms_rows_beside_sessions_that_generate(
    llama: Path, pooling: Literal["mean", "last"]
) -> None:
    with torch.inference_mode():
        hidden = load_whole(llama).model(torch.tensor([LONG])).last_hidden_state[0].double()
    wanted = torch.nn.functional.normalize(hidden.mean(0) if pooling == "mean" else hidden[-1], dim=0)
    async with running(load(llama, WHOLE), EngineOptions(max_prefill_tokens=7)) as harness:
        await harness.open(1)
        alone = [sampled.token_id for sampled in await harness.generate(1, PROMPT)]
        await harness.engine.close(1)
        await harness.open(2)
        harness.submit(2, 0, PROMPT)
        found = await embedded(harness, 3, LONG, pooling)
        assert (found.index, found.finish) == (0, "stop")
        torch.testing.assert_close(vector_of(found.embedding).double(), wanted, atol=2e-6, rtol=0)
        drawn = [sampled for output in harness.outputs for sampled in output.sampled if sampled.session == 2]
        assert drawn[0].token_id == alone[0]


async def test_a_vector_is_not_gone_on_with(llama: Path) -> None:
    async with running(load(llama, WHOLE)) as harness:
        found = await embedded(harness, 1, PROMPT, "mean")
        assert found.embedding
        spec = SessionSpec(
            session=1, span="span", num_prompt_tokens=8, max_total_tokens=9, sampling=SamplingParams(), pooling="mean"
        )
        with pytest.raises(InvalidRequestError, match="begin it anew"):
            await harness.engine.resume(spec, 4)
