"""Whatever a peer sends, a reader takes it or refuses it by a typed error: no other exception, no memory, no harm.

A million of them: `scripts/chaos --trust`.
"""

import pytest
from scripts.chaos_runs.attack_readers import READERS
from scripts.chaos_runs.attacks import MAX_GROWN_BYTES, attack

NUM_EACH = 800


@pytest.mark.parametrize("reader", list(READERS))
async def test_a_reader_takes_a_message_or_refuses_it_by_a_typed_error(reader: str) -> None:
    told = await attack(reader, seed=1, count=NUM_EACH)
    assert told.strange == []
    assert told.num_sent == NUM_EACH
    assert told.num_refused > 0 or reader == "record guard"  # which answers, and raises nothing
    assert told.grown_bytes < MAX_GROWN_BYTES
