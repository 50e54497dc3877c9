"""Whole swarms in simulated time: promises hold by seed, runs replay exactly, and what breaks a promise is caught."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripts.simulation.scenario import NAMES, FailureConfig, ModelConfig, Scenario, named
from scripts.simulation.world import simulate

from osai.coordinator.placing import planner
from osai.coordinator.sessions import opening
from osai.coordinator.sessions.actions import SendIds
from osai.coordinator.sessions.messages import SessionWriter
from osai.coordinator.sessions.recovery import StageStart, Standing, plan_resume
from osai.node.stages.journal import Journal
from osai.proto import edge_pb2

NUM_SEEDS = 20
NUM_TRIES = 4
SIMULATE = Path(__file__).parents[2] / "scripts" / "simulate"


def small(name: str, churn: float = 1.5) -> Scenario:
    """Few nodes, a small model, a short time."""
    scenario = named(name, num_nodes=18, minutes=0.6, churn=churn)
    return replace(scenario, model=ModelConfig(num_layers=8), settle_s=15.0, num_clients=3, num_kicks=1)


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_churn_loses_no_request_and_no_layer(seed: int) -> None:
    outcome = simulate(small("churn"), seed)
    assert outcome.broken == ()
    told = outcome.figures
    assert told.num_complete + told.num_ended == told.num_requests
    assert told.num_complete > 10
    assert outcome.counts["die"] + outcome.counts.get("vanish", 0) > 3


@pytest.mark.parametrize("name", [name for name in NAMES if name != "churn"])
def test_every_scenario_runs_to_its_end(name: str) -> None:
    told = simulate(small(name, churn=1.0), 1).figures
    assert told.num_requests > 10
    assert told.num_complete >= 0.8 * told.num_requests


def test_equal_seeds_give_equal_runs() -> None:
    first, second, other = (simulate(small("mixed"), seed) for seed in (5, 5, 6))
    assert first == second
    assert first.digest != other.digest


def test_a_seed_replays_in_another_process_with_other_hashes(tmp_path: Path) -> None:
    told: list[Any] = []
    for salt in ("1", "2"):
        file = tmp_path / f"{salt}.json"
        command = [str(SIMULATE), "--nodes", "20", "--minutes", "0.2", "--seed", "3", "--json", str(file)]
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": salt}, check=True, capture_output=True)
        told.append(json.loads(file.read_text()))
    assert told[0] == told[1]


def broken(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, by: object, scenario: Scenario
) -> tuple[str, ...]:
    """Promises that break with a part of production replaced by one that is wrong; they hold with the right one."""
    monkeypatch.setattr(where, name, by)
    return next((lines for seed in range(NUM_TRIES) if (lines := simulate(scenario, seed).broken)), ())


def test_a_journal_that_replays_the_wrong_rows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Journal.read

    def one_early(self: Journal, session: int, begin: int, end: int) -> bytes | None:
        data = read(self, session, begin - 1, end - 1)
        return data if data is not None else read(self, session, begin, end)

    lines = broken(monkeypatch, Journal, "read", one_early, small("churn", churn=6))
    assert any("due were" in line for line in lines)


def test_a_resume_that_skips_a_row_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(standings: Sequence[Standing]) -> tuple[StageStart, ...]:
        return tuple(replace(start, push_from=start.push_from + 1) for start in plan_resume(standings))

    assert broken(monkeypatch, opening, "plan_resume", late, small("churn", churn=6))


def test_tokens_that_are_forgotten_at_a_resume_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = SessionWriter.ids

    def stale(self: SessionWriter, action: SendIds, known: Sequence[int]) -> edge_pb2.LinkMessage:
        return ids(self, action, [*known[:-1], 0])

    lines = broken(monkeypatch, SessionWriter, "ids", stale, small("churn", churn=6))
    assert any("due were" in line for line in lines)


def test_gaps_that_nobody_repairs_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = replace(small("churn"), minutes=2.0, failures=FailureConfig(session_s=90.0, rejoin_s=600.0))
    lines = broken(monkeypatch, planner, "repair", lambda _hosts: None, replace(scenario, num_nodes=8))
    assert any("no pipeline joined" in line for line in lines)
