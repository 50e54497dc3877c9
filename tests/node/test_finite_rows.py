"""Rows that are not finite: refused at each hop to whoever sent them, and nobody else notices."""

import pytest
import torch

from node.fake_engine import NEXT, hidden, node, rows, until
from node.stage_requests import MIDDLE
from osai.core.errors import BadFrameError
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
