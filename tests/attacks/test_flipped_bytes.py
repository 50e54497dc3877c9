"""One byte flipped, wherever: refused, blamed on its sender, fetched anew from elsewhere, and never in a tensor.

A thousand of each: `scripts/chaos --trust`.
"""

import pytest
from scripts.chaos_runs.flips import WAYS, flip

NUM_TRIES = 24


@pytest.mark.parametrize("way", list(WAYS))
async def test_a_flipped_byte_is_refused_blamed_and_fetched_from_elsewhere(way: str) -> None:
    told = await flip(way, seed=1, count=NUM_TRIES)
    assert told.wrong == []
    assert (told.num_tries, told.num_blamed, told.num_refetched) == (NUM_TRIES, NUM_TRIES, NUM_TRIES)
