"""Bad luck: killed nodes, unreachable coordinators, refused spans; each ends in a clear error, and nothing hangs."""

import asyncio
import math
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from families.fixtures import Checkpoints
from osai.client import AsyncClient, Chunk, Completion
from osai.client.completion import CompletionBuilder
from osai.core.errors import (
    ContextExceededError,
    InvalidRequestError,
    NotCoveredError,
    UnknownModelError,
)
from osai.core.manifest import parse, unsigned
from swarm.programs import Hosted, Program, Publisher, SignedModel, TestSwarm, wait_until

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

PROMPT = [5, 99, 250, 17, 42, 8, 301]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints) -> tuple[Publisher, SignedModel]:
    publisher = Publisher(tmp_path_factory.mktemp("publisher"))
    return publisher, publisher.sign("llama", checkpoints("llama"))


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory, model: tuple[Publisher, SignedModel]) -> Iterator[TestSwarm]:
    """One coordinator for the tests that do not harm it; "nobody" is a model that no node ever hosts."""
    publisher, signed = model
    with TestSwarm(tmp_path_factory.mktemp("coordinator"), publisher.public_key) as running:
        running.serve([signed, publisher.sign("nobody", signed.folder)], "--coverage-wait", "3")
        yield running


@pytest.fixture
def swarm(coordinator: TestSwarm) -> Iterator[TestSwarm]:
    """The coordinator, and whatever nodes a test starts; these end with the test."""
    yield coordinator
    coordinator.stop_nodes()


async def generate_and_strike(swarm: TestSwarm, number: signal.Signals) -> tuple[Completion, float, str]:
    """Kill or stop the tail in the middle of a generation; what came, the longest time between two tokens, the tail."""
    builder, pause_s, last_s, tail = CompletionBuilder(with_logprobs=False), 0.0, math.inf, ""
    async with AsyncClient(swarm.address) as client:
        async for event in client.generate(PROMPT, model_id="llama", max_tokens=200, ignore_eos=True, seed=3):
            builder.add(event)
            if isinstance(event, Chunk):
                pause_s, last_s = max(pause_s, time.monotonic() - last_s), time.monotonic()
                if event.index == 5:
                    tail = builder.pipeline[-1].node_id
                    swarm.nodes[next(name for name, node_id in swarm.ids.items() if node_id == tail)].signal(number)
    return builder.completion(), pause_s, tail


async def test_a_killed_and_a_stopped_node_are_replaced_while_there_are_replicas(
    swarm: TestSwarm, model: tuple[Publisher, SignedModel]
) -> None:
    """Afterwards the session waits for one, and then ends."""
    _, signed = model
    swarm.add_nodes([[Hosted(model=signed, span=span)] for span in ("0:3", "3:6", "3:6", "3:6")])
    async with AsyncClient(swarm.address) as client:
        undisturbed = await client.complete(PROMPT, model_id="llama", max_tokens=200, ignore_eos=True, seed=3)
    for number in (signal.SIGKILL, signal.SIGSTOP):
        completion, pause_s, struck = await generate_and_strike(swarm, number)
        assert completion.token_ids == undisturbed.token_ids
        assert completion.num_recoveries >= 1
        assert pause_s < (1.0 if number == signal.SIGKILL else 5.0)
        assert completion.pipeline[-1].node_id != struck
    with pytest.raises(NotCoveredError, match=r"layers 3:6 of llama have no ready node.*tokens were generated"):
        await generate_and_strike(swarm, signal.SIGKILL)


async def test_requests_that_cannot_be_served_say_why(swarm: TestSwarm, model: tuple[Publisher, SignedModel]) -> None:
    _, signed = model
    swarm.add_nodes([[Hosted(model=signed, span="0:4")]])
    async with AsyncClient(swarm.address) as client:
        with pytest.raises(NotCoveredError, match="layers 0:6 of nobody have no ready node"):
            await client.complete(PROMPT, model_id="nobody", max_tokens=4)
        with pytest.raises(UnknownModelError, match="'gpt-9' is not served here; served are: llama, nobody"):
            await client.complete(PROMPT, model_id="gpt-9")
        with pytest.raises(ContextExceededError, match="512"):
            await client.complete([5] * 512, model_id="llama")
        with pytest.raises(ContextExceededError, match="at most 505"):
            await client.complete(PROMPT, model_id="llama", max_tokens=506)
        for wrong in (0, -1):
            with pytest.raises(InvalidRequestError, match="max_tokens"):
                await client.complete(PROMPT, model_id="llama", max_tokens=wrong)
        with pytest.raises(InvalidRequestError, match="vocabulary"):
            await client.complete([384], model_id="llama")
        with pytest.raises(InvalidRequestError, match="top_p"):
            await client.complete(PROMPT, model_id="llama", top_p=1.5)


def test_a_node_with_one_flipped_byte_refuses_the_span_and_names_the_tensor(
    swarm: TestSwarm, model: tuple[Publisher, SignedModel], tmp_path: Path
) -> None:
    _, signed = model
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in signed.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    shard = sorted(copy.glob("*.safetensors"))[2]
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    altered = SignedModel(model_id="llama", folder=copy, manifest=signed.manifest)
    program = swarm.start_node("flipped", [Hosted(model=altered, span="0:6")])
    assert program.wait(60) == 1
    assert "differs from the manifest" in program.log()
    assert "error: tensor model.layers." in program.log()


def test_a_missing_shard_an_untrusted_publisher_and_too_little_memory_are_refused(
    swarm: TestSwarm, model: tuple[Publisher, SignedModel], tmp_path: Path
) -> None:
    _, signed = model
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in sorted(signed.folder.iterdir()):
        if "00003-of" not in file.name:
            (copy / file.name).write_bytes(file.read_bytes())
    incomplete = SignedModel(model_id="llama", folder=copy, manifest=signed.manifest)
    programs = [
        swarm.start_node("incomplete", [Hosted(model=incomplete, span="0:6")]),
        swarm.start_node("stranger", [Hosted(model=signed, span="0:6")], trust=Publisher(tmp_path).public_key),
        swarm.start_node("small", [Hosted(model=signed, span="0:6")], "--memory", "100K"),
    ]
    assert [program.wait(60) for program in programs] == [1, 1, 1]
    assert "00003-of" in programs[0].log()
    assert "--trust" in programs[1].log()
    assert "give more with --memory" in programs[2].log()


def test_a_wish_that_the_model_cannot_grant_ends_the_node(
    swarm: TestSwarm, model: tuple[Publisher, SignedModel]
) -> None:
    _, signed = model
    unknown = SignedModel(model_id="gpt-9", folder=signed.folder, manifest=signed.manifest)
    programs = [
        swarm.start_node("unknown", [Hosted(model=unknown)]),
        swarm.start_node("past", [Hosted(model=signed, span="4:9")]),
    ]
    assert [program.wait(60) for program in programs] == [1, 1]
    assert "'gpt-9' is not served here" in programs[0].log()
    assert "reach past the model's 6 layers" in programs[1].log()


def test_ports_in_use_and_coordinators_out_of_reach_are_said(
    swarm: TestSwarm, model: tuple[Publisher, SignedModel]
) -> None:
    _, signed = model
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        in_use = [
            swarm.start_node(f"in-use{option}", [Hosted(model=signed)], option, f"127.0.0.1:{port}")
            for option in ("--listen", "--dht")
        ]
        assert [program.wait(60) for program in in_use] == [1, 1]
    assert all(f"can't listen on 127.0.0.1:{port}" in program.log().splitlines()[-1] for program in in_use)
    nowhere = swarm.start_node("nowhere", [Hosted(model=signed)], "--join-timeout", "2", join=f"127.0.0.1:{port}")
    assert nowhere.wait(60) == 1
    assert f"no connection to 127.0.0.1:{port}" in nowhere.log()


def test_a_coordinator_says_which_port_is_in_use(
    swarm: TestSwarm, model: tuple[Publisher, SignedModel], tmp_path: Path
) -> None:
    publisher, signed = model
    ports = {"--listen": swarm.address, "--http": swarm.http.removeprefix("http://")}
    for option, address in ports.items():
        program = Program(
            f"second{option}",
            "osai.coordinator",
            ["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dht", "127.0.0.1:0", option, address,
             "--trust", str(publisher.public_key), "--state", str(tmp_path / option), "--model", str(signed.folder),
             "--manifest", str(signed.manifest)],
            tmp_path,
        )  # fmt: skip
        assert program.wait(60) == 1
        assert f"error: can't listen on {address}" in program.log() or address in program.log()
        program.stop()


async def test_an_unsigned_model_is_served_only_where_that_is_allowed_and_is_marked(
    model: tuple[Publisher, SignedModel], tmp_path: Path
) -> None:
    publisher, signed = model
    bare = tmp_path / "bare.json"
    bare.write_bytes(unsigned(parse(signed.manifest.read_bytes()).manifest))
    model_without = SignedModel(model_id="llama", folder=signed.folder, manifest=bare)
    with TestSwarm(tmp_path, publisher.public_key) as swarm:
        swarm.serve([model_without], "--allow-unsigned")
        refusing = swarm.start_node("refusing", [Hosted(model=model_without, span="0:6")])
        assert refusing.wait(60) == 1
        assert "signed" in refusing.log()
        assert "--allow-unsigned" in refusing.log()
        refusing.stop()
        del swarm.nodes["refusing"]
        swarm.add_nodes([[Hosted(model=model_without, span="0:6")]], "--allow-unsigned")
        assert "UNVERIFIED WEIGHTS" in swarm.nodes["node-0"].log()
        async with AsyncClient(swarm.address) as client:
            assert len((await client.complete(PROMPT, max_tokens=4, ignore_eos=True)).token_ids) == 4
            view = await client.swarm()
        assert [model.signed for model in view.models] == [False]
        assert [span.verified for node in view.nodes for span in node.spans] == [False]
        page = await asyncio.to_thread(httpx.get, swarm.http)
        assert "unsigned" in page.text.lower()


async def test_a_node_serves_on_while_its_coordinator_is_gone_and_another_finds_it(
    model: tuple[Publisher, SignedModel], tmp_path: Path
) -> None:
    """Any number of coordinators see the same swarm: the second knows the node from the DHT alone."""
    publisher, signed = model
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with (
        TestSwarm(tmp_path / "first", publisher.public_key) as swarm,
        TestSwarm(tmp_path / "second", publisher.public_key) as second,
    ):
        swarm.serve([signed])
        swarm.add_nodes([[Hosted(model=signed, span="0:6")]])
        second.serve([signed], "--join", swarm.dht[0])

        async def covered() -> bool:
            async with AsyncClient(second.address) as client:
                return all(model.covered for model in await client.models())

        for _ in range(100):
            if await covered():
                break
            await asyncio.sleep(0.1)
        assert swarm.coordinator is not None
        swarm.coordinator.kill()
        async with AsyncClient(second.address) as client:
            completion = await client.complete(PROMPT, max_tokens=8, ignore_eos=True)
        assert len(completion.token_ids) == 8
        wait_until(lambda: "node-0" in second.coordinator.log() if second.coordinator else False, 30, "it joins there")
