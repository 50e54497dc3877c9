"""Coordinators and nodes that are stopped gently in mid-generation: nobody notices."""

import asyncio
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from families.fixtures import Checkpoints
from osai.client import AsyncClient, Chunk, Completion, GenerationOptions, Stage
from osai.client.completion import CompletionBuilder
from swarm.programs import Hosted, Program, Publisher, SignedModel, TestSwarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

PROMPT = [5, 99, 250, 17, 42, 8, 301]
SPANS = ("0:3", "0:3", "3:6", "3:6")
OPTIONS = GenerationOptions(model_id="llama", max_tokens=400, ignore_eos=True, temperature=0.8, seed=11)


async def generate(
    swarm: TestSwarm, at: int, strike: Callable[[Sequence[Stage]], None] = lambda _: None
) -> tuple[Completion, float]:
    """A generation that is disturbed at a token, and the longest time between two tokens."""
    builder, pause_s, last_s = CompletionBuilder(with_logprobs=False), 0.0, math.inf
    async with AsyncClient(swarm.address) as client:
        async for event in client.generate(PROMPT, **OPTIONS):
            builder.add(event)
            if isinstance(event, Chunk):
                pause_s, last_s = max(pause_s, time.monotonic() - last_s), time.monotonic()
                if event.index == at:
                    strike(builder.pipeline)
    return builder.completion(), pause_s


def second_coordinator(swarm: TestSwarm, model: SignedModel) -> Program:
    """Another one in the same swarm."""
    program = Program(
        "second",
        "osai.coordinator",
        ["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dht", "127.0.0.1:0", "--json",
         "--trust", str(swarm.public_key), "--state", str(swarm.folder / "second"), "--join", swarm.dht[0],
         "--model", str(model.folder), "--manifest", str(model.manifest)],
        swarm.folder,
    )  # fmt: skip
    program.ready()
    return program


def test_a_session_outlives_a_coordinator_and_a_node_that_are_stopped(checkpoints: Checkpoints, tmp_path: Path) -> None:
    publisher = Publisher(tmp_path)
    signed = publisher.sign("llama", checkpoints("llama"))
    with TestSwarm(tmp_path, publisher.public_key) as swarm:
        swarm.serve([signed])
        swarm.add_nodes([[Hosted(model=signed, span=span)] for span in SPANS])
        undisturbed, _ = asyncio.run(generate(swarm, 0))

        def stop_a_stage(pipeline: Sequence[Stage]) -> None:
            node_id = pipeline[1].node_id
            swarm.nodes[next(name for name, key in swarm.ids.items() if key == node_id)].signal(signal.SIGTERM)

        completion, pause_s = asyncio.run(generate(swarm, 100, stop_a_stage))
        assert completion.token_ids == undisturbed.token_ids
        assert completion.pipeline[1].node_id != undisturbed.pipeline[1].node_id or completion.num_recoveries
        assert pause_s < 1.0

        second = second_coordinator(swarm, signed)
        asyncio.run(_until_known(swarm, second))
        coordinator = swarm.coordinator
        assert coordinator is not None
        completion, pause_s = asyncio.run(generate(swarm, 100, lambda _: coordinator.signal(signal.SIGTERM)))
        assert completion.token_ids == undisturbed.token_ids
        assert pause_s < 3.0
        second.stop()


async def _until_known(swarm: TestSwarm, second: Program) -> None:
    async with asyncio.timeout(15), AsyncClient(swarm.address) as client:
        while len((await client.swarm()).coordinators) < 2:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.2)
    assert second.process.poll() is None
