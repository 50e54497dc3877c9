"""Failing steps, dying threads and steps that do not end."""

import asyncio
import math
from pathlib import Path

import pytest
import torch

from engine.harness import DEADLINE_S, END, LATER, MIDDLE, PROMPT, WHOLE, Gate, Harness, load, running
from osai.core.errors import (
    DeadlineExceededError,
    InternalError,
    UnavailableError,
    UnknownSessionError,
)
from osai.core.layers import LayerRange
from osai.node.engine.options import EngineOptions


async def test_a_failing_step_fails_its_sessions_alone(llama: Path, reference: list[int]) -> None:
    model = load(llama, WHOLE)
    async with running(model) as harness:
        await harness.open(1)
        await harness.open(2)
        free = harness.engine.num_free_kv_tokens("span")

        def fail(*_: object) -> None:
            raise RuntimeError("no more memory")

        hook = model.decoder.register_forward_pre_hook(fail)
        harness.submit(1, 0, PROMPT)
        output = await harness.output(0)
        hook.remove()
        ((rows, error),) = output.failed
        assert (rows.session, type(error), output.rows) == (1, InternalError, ())
        assert "no more memory" in error.message
        assert harness.engine.num_free_kv_tokens("span") == free + 48, "the session is closed"
        with pytest.raises(UnknownSessionError):
            harness.submit(1, 8, LATER)
        assert [s.token_id for s in await harness.generate(2, PROMPT)] == reference


@pytest.mark.parametrize("layers", [MIDDLE, END])
async def test_values_that_are_not_finite_fail_their_session_alone(llama: Path, layers: LayerRange) -> None:
    """A span's own arithmetic may overflow on finite input: here a hook spoils the second row of three."""
    model = load(llama, layers)

    def spoil(_: object, __: object, out: torch.Tensor) -> torch.Tensor:
        if out.shape[1] == 3:
            out[:, 1] = math.nan
        return out

    model.decoder.layers[-1].register_forward_hook(spoil)
    async with running(model) as harness:
        for session in (1, 2, 3):
            await harness.open(session, num_prompt_tokens=1)
        gate = Gate(model)
        harness.submit(1, 0, torch.ones(1, 64))
        await gate.reached()
        for session in (1, 2, 3):
            harness.submit(session, 0 if session > 1 else 1, torch.ones(1, 64))
        gate.open()
        output = await harness.output(1)
        assert [rows.session for rows in output.rows] == [1, 3]
        assert [(rows.session, type(error)) for rows, error in output.failed] == [(2, InternalError)]
        assert "not finite" in output.failed[0][1].message
        if output.hidden is None:
            assert [sampled.session for sampled in output.sampled] == [1, 3]
        else:
            assert output.hidden.shape == (2, 64)
            assert output.hidden.isfinite().all()


async def test_a_dead_thread_is_noticed(llama: Path) -> None:
    model = load(llama, WHOLE)

    def die(*_: object) -> None:
        raise SystemExit("killed")

    async with running(model) as harness:
        await harness.open(1)
        model.decoder.register_forward_pre_hook(die)
        harness.submit(1, 0, PROMPT)
        error = await asyncio.wait_for(harness.failure, DEADLINE_S)
        assert isinstance(error, InternalError)
        assert "killed" in error.message
        with pytest.raises(UnavailableError, match="thread died"):
            harness.submit(1, 8, LATER)
        with pytest.raises(UnavailableError, match="thread died"):
            await harness.open(2)
        with pytest.raises(UnavailableError, match="thread died"):
            await harness.engine.measure("span")
        await harness.engine.close(1)
        await harness.engine.remove_span("span")


async def test_calls_that_wait_for_a_thread_that_dies_fail(llama: Path) -> None:
    model = load(llama, WHOLE)

    def die(*_: object) -> None:
        raise SystemExit("killed")

    async with running(model) as harness:
        await harness.open(1)
        gate = Gate(model)
        harness.submit(1, 0, PROMPT)
        await gate.reached()
        model.decoder.register_forward_pre_hook(die)
        waiting = asyncio.ensure_future(harness.engine.measure("span"))
        await asyncio.sleep(0)
        model.decoder.norm.register_forward_hook(die)
        gate.open()
        with pytest.raises(UnavailableError, match="thread died"):
            await waiting


async def test_stop_does_not_wait_for_ever(llama: Path) -> None:
    model = load(llama, WHOLE)
    harness = Harness(EngineOptions(stop_timeout_s=0.05))
    await harness.engine.stop()  # never started
    harness = Harness(EngineOptions(stop_timeout_s=0.05))
    harness.engine.start()
    await harness.engine.add_span("span", model, 1_000_000)
    await harness.open(1)
    gate = Gate(model)
    harness.submit(1, 0, PROMPT)
    await gate.reached()
    with pytest.raises(DeadlineExceededError, match=r"0.05 s"):
        await harness.engine.stop()
    gate.open()
    await harness.engine.stop()
    with pytest.raises(UnavailableError, match="stopped"):
        harness.submit(1, 8, LATER)
    assert not harness.failure.done()
