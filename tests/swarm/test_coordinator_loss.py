"""Coordinators that are killed, or leave, with sessions running: these go on through another, or after its restart."""

from pathlib import Path

import pytest

from osai.core.layers import LayerRange
from swarm.programs import chaos

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

SPANS = (LayerRange(0, 3), LayerRange(3, 6))


async def test_another_coordinator_goes_on_with_the_sessions(tmp_path: Path) -> None:
    assert await chaos(tmp_path, "coordinator-other", "leave-coordinator", num_replicas=1, spans=SPANS) == []


async def test_the_only_coordinator_goes_on_with_the_sessions_after_its_restart(tmp_path: Path) -> None:
    assert await chaos(tmp_path, "coordinator-restart", num_replicas=1, spans=SPANS) == []
