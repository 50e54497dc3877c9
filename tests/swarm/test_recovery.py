"""Nodes that are killed, hang or leave in mid-generation: clients see a pause, and the tokens of an undisturbed run."""

from pathlib import Path

import pytest

from osai.core.layers import LayerRange
from swarm.programs import chaos

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(240)]


async def test_killed_stopped_and_leaving_stages_are_replaced_and_the_tokens_stay_the_same(tmp_path: Path) -> None:
    kills = ("kill-head-decode", "kill-middle-prefill", "kill-tail-decode", "adjacent")
    assert await chaos(tmp_path, *kills, "stop", "leave-node", num_replicas=2) == []


async def test_standbys_take_the_place_of_a_killed_stage(tmp_path: Path) -> None:
    assert await chaos(tmp_path, "standby", spans=(LayerRange(0, 3), LayerRange(3, 6))) == []


async def test_without_a_replica_sessions_end_in_time_with_what_was_generated(tmp_path: Path) -> None:
    assert await chaos(tmp_path, "last-replica", spans=(LayerRange(0, 3), LayerRange(3, 6))) == []
