"""Links that fail while both of their ends live."""

from pathlib import Path

import pytest

from osai.core.layers import LayerRange
from swarm.programs import chaos

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(240)]


async def test_generations_are_whole_over_partitions_loss_and_varying_delay(tmp_path: Path) -> None:
    names = ("partition-nodes-one-way", "partition-coordinator-two-way", "loss", "delay")
    assert await chaos(tmp_path, *names, spans=(LayerRange(0, 3), LayerRange(3, 6))) == []
