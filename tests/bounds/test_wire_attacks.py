"""A process under attack over its sockets: typed errors, steady memory, and honest peers beside that notice nothing.

`scripts/chaos --trust` makes the same attacks.
"""

from collections.abc import Iterator

import pytest
from scripts.chaos_runs.wire_attacks import ATTACKS, NUM_TOLD, Victim
from scripts.chaos_runs.wire_trials import MAX_GROWN_BYTES, attack_wire, attacked_process

pytestmark = pytest.mark.timeout(300)  # an attack's and the honest peer's own deadlines are shorter, and say more


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with attacked_process() as attacked:
        yield attacked


@pytest.mark.parametrize("name", list(ATTACKS))
async def test_an_attack_ends_with_typed_errors_and_costs_honest_peers_nothing(victim: Victim, name: str) -> None:
    trial = await attack_wire(victim, name)
    assert trial.wrong == ""
    assert trial.num_told == NUM_TOLD[name]
    assert trial.grown_bytes < MAX_GROWN_BYTES, f"{trial.grown_bytes / 2**20:.0f} MiB"
