"""Rows that are not finite: refused at each hop to whoever sent them, and nobody else notices."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from node.fake_engine import NEXT, hidden, node, rows, until
from node.stage_requests import MIDDLE
from osai.core.errors import BadFrameError, NotFiniteError
from osai.node.engine.api import Input
from osai.node.engine.input_checks import check_data
from osai.node.engine.span_model import SpanModel
from osai.node.wire import write_batch


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
async def test_rows_that_are_not_finite_are_refused_to_their_sender_and_their_neighbours_run(value: float) -> None:
    async with node(MIDDLE) as it:
        await it.opens(1, MIDDLE, NEXT)
        await it.opens(2, MIDDLE, NEXT)
        sent = hidden(5)
        sent[1, 3] = value
        it.link.send(write_batch([rows(2, count=2), rows(1, count=3)], sent))
        session, error = await it.fails(3)
        assert (session, type(error), error.subject) == (2, BadFrameError, "coordinator")  # whoever sent them
        assert "not finite" in error.message
        await until(lambda: len(it.engine.inputs) == 1)
        assert it.engine.inputs[0].rows == rows(1, count=3)
        assert it.ring.num_sessions == 2  # another epoch may mend it


async def test_rows_whose_sum_overflows_are_finite_all_the_same() -> None:
    async with node(MIDDLE) as it:
        await it.opens(1, MIDDLE, NEXT)
        it.link.send(write_batch([rows(1, count=3)], torch.full_like(hidden(3), 3e38)))
        await until(lambda: len(it.engine.inputs) == 1)


def check(value: float, dtype: torch.dtype) -> None:
    """What the engine says of three rows with that value in one place."""
    span = SimpleNamespace(is_head=False, dtype=dtype, hidden_size=4)
    data = torch.zeros(3, 4, dtype=dtype)
    data[1, 2] = value
    check_data(Input(rows=rows(1, count=3), data=data), cast("SpanModel", span))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_engine_takes_all_that_is_finite_and_nothing_else(dtype: torch.dtype) -> None:
    for value in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(NotFiniteError):
            check(value, dtype)
    for value in (torch.finfo(dtype).max, torch.finfo(dtype).min, -0.0):
        check(value, dtype)
