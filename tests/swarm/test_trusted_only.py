"""A public swarm of real processes, some of whose nodes are Alice's: who trusts her alone is served by those alone."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from osai.client import AsyncClient, Chunk, Finished, GenerationEvent, Rerouted, Started
from osai.client.publisher_keys import create_key
from osai.client.up.members import wait_for_members
from osai.core.embedded import MODEL_ID, model_dir, publisher_key_file
from osai.core.errors import NotCoveredError
from osai.core.identity import Identity
from osai.core.manifest import MANIFEST_FILE
from swarm.programs import Hosted, SignedModel, TestSwarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(240)]

MODEL = SignedModel(model_id=MODEL_ID, folder=model_dir(), manifest=model_dir() / MANIFEST_FILE)
ALICES = {"head": "0:3", "tail": "3:6", "spare": "3:6"}
PROMPT = "ROMEO:\nZuckowsky owes Vandermeer"
NUM_TOKENS = 400  # some seconds of them


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Identity, Path]:
    path = tmp_path_factory.mktemp("alice") / "alice.pem"
    return create_key(path)[0], path


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory, alice: tuple[Identity, Path]) -> Iterator[TestSwarm]:
    """Alice's nodes, and a stranger's that could do everything alone."""
    with TestSwarm(tmp_path_factory.mktemp("swarm"), publisher_key_file()) as running:
        running.serve([MODEL], "--log-level", "debug")
        for name, span in ALICES.items():
            more = ("--operator", str(alice[1]), "--log-level", "debug")
            running.start_node(name, [Hosted(model=MODEL, span=span)], *more)
        running.start_node("stranger", [Hosted(model=MODEL, span="0:6")], "--log-level", "debug")
        for name, program in running.nodes.items():
            running.ids[name] = program.ready()["id"]
        asyncio.run(wait_for_members(running.address, list(running.ids.values())))
        yield running


async def test_the_swarm_is_told_whose_nodes_are_whose(swarm: TestSwarm, alice: tuple[Identity, Path]) -> None:
    async with AsyncClient(swarm.address) as client:
        operators = {node.name: node.operator for node in (await client.swarm()).nodes}
    assert operators == dict.fromkeys(ALICES, alice[0].public_key.hex()) | {"stranger": ""}


async def test_who_trusts_nobody_there_is_served_by_nobody(swarm: TestSwarm) -> None:
    async with AsyncClient(swarm.address) as client:
        with pytest.raises(NotCoveredError, match="no node of the operators named hosts layers 0:6"):
            await client.complete(PROMPT, max_tokens=4, trusted_only=[Identity.generate().public_key])


async def test_alices_nodes_serve_and_take_over_and_the_strangers_never_does(
    swarm: TestSwarm, alice: tuple[Identity, Path]
) -> None:
    events: list[GenerationEvent] = []
    used: set[str] = set()
    hers = {swarm.ids[name] for name in ALICES}
    async with AsyncClient(swarm.address) as client:
        assert len((await client.complete(PROMPT, max_tokens=4)).pipeline) == 1  # the stranger's: it costs less
        options = {"trusted_only": [alice[0].public_key.hex()], "ignore_eos": True}
        async for event in client.generate(PROMPT, max_tokens=NUM_TOKENS, **options):  # type: ignore[arg-type]
            events.append(event)
            if isinstance(event, Started | Rerouted):
                used |= {stage.node_id for stage in event.pipeline}
            if isinstance(event, Chunk) and event.index == 20:
                tail = next(name for name in ("tail", "spare") if swarm.ids[name] in used)
                await asyncio.to_thread(swarm.nodes[tail].kill)
    assert used == hers
    assert isinstance(events[-1], Finished)
    assert events[-1].num_recoveries == 1


def test_nothing_of_it_is_in_any_log(swarm: TestSwarm) -> None:
    assert swarm.coordinator is not None
    for program in (swarm.coordinator, *swarm.nodes.values()):
        log = program.log()
        assert re.search(r" DEBUG +\S", log), program.name
        assert not any(word in log for word in ("Zuckowsky", "Vandermeer", "ROMEO")), program.name
        assert "counts as nobody's" not in log
