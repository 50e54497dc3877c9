"""A private swarm of real processes: made, joined by tokens, used, and rid of a member; strangers get nowhere."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from families.fixtures import Checkpoints
from osai.client import AsyncClient, Completion
from osai.core.admission import Role
from osai.core.errors import NotCoveredError, OsaiError, SwarmError
from osai.core.rpc import error_of, insecure_channel
from osai.core.swarm_folder import SwarmFolder
from osai.proto import client_pb2, client_pb2_grpc, common_pb2
from swarm.programs import Hosted, Publisher, SignedModel, TestSwarm, wait_until

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(240)]

PROMPT = [5, 99, 250, 17, 42, 8, 301]
SPANS = ("0:3", "3:6")
REVOKED_WITHIN_S = 10.0
NUM_TOKENS = 500  # some seconds of them


class Private:
    """A private swarm with two nodes and a client."""

    def __init__(self, folder: Path, swarm: TestSwarm) -> None:
        self.folder = folder
        self.swarm = swarm
        self.authority = SwarmFolder.create(folder / "authority", time.time())

    def token(self, role: Role, life_s: int = 3600) -> str:
        return self.authority.invite(role, now_s=time.time(), life_s=life_s).text

    def osai(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"XDG_STATE_HOME": str(self.folder / "client")}
        command = [sys.executable, "-m", "osai.client", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints) -> Iterator[Private]:
    publisher = Publisher(tmp_path_factory.mktemp("publisher"))
    model = publisher.sign("test/llama", checkpoints("llama"))
    folder = tmp_path_factory.mktemp("private")
    with TestSwarm(folder, publisher.public_key) as swarm:
        it = Private(folder, swarm)
        swarm.serve([model], "--swarm", str(it.authority.folder))
        for i, span in enumerate(SPANS):
            swarm.start_node(f"node-{i}", [Hosted(model=model, span=span)], "--token", it.token(Role.NODE))
        for name, program in swarm.nodes.items():
            ready = program.ready()
            swarm.ids[name], swarm.edges[name] = ready["id"], ready["edge"]
        joined = it.osai("swarm", "join", swarm.address, "--token", it.token(Role.CLIENT))
        assert joined.returncode == 0, joined.stderr
        yield it


@pytest.fixture
def client_state(private: Private, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(private.folder / "client"))


async def complete(address: str, **options: object) -> Completion:
    async with AsyncClient(address) as client:
        return await client.complete(PROMPT, ignore_eos=True, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("client_state")
async def test_members_generate_the_tokens_of_a_public_swarm(
    private: Private, tmp_path: Path, checkpoints: Checkpoints
) -> None:
    private_tokens = await complete(private.swarm.address, max_tokens=24)
    publisher = Publisher(tmp_path)
    model: SignedModel = publisher.sign("test/llama", checkpoints("llama"))
    with TestSwarm(tmp_path, publisher.public_key) as public:
        public.serve([model])
        public.add_nodes([[Hosted(model=model)]])
        assert (await complete(public.address, max_tokens=24)).token_ids == private_tokens.token_ids
    for name, program in private.swarm.nodes.items():
        assert "by gRPC alone" not in program.log(), name  # links have their bare streams, encrypted


def test_the_operator_revokes_and_restores_by_command(private: Private) -> None:
    folder, nobody = ("--swarm", str(private.authority.folder)), "ab" * 16
    assert private.osai("swarm", "revoke", nobody, *folder).returncode == 0
    assert nobody in private.osai("swarm", "show", *folder).stdout
    assert private.osai("swarm", "restore", nobody, *folder).returncode == 0
    assert nobody not in private.osai("swarm", "show", *folder).stdout
    assert private.osai("swarm", "revoke", "node-1", *folder).returncode == 1  # a name is no id


def test_members_can_ask_themselves_how_they_are(private: Private) -> None:
    where = {"osai.coordinator": (private.swarm.address, "coordinator"), "osai.node": (edge_of(private), "node-0")}
    for module, (address, state) in where.items():
        command = [sys.executable, "-m", module, "health", "--address", address, "--state", str(private.folder / state)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, "serving"), done.stderr


def edge_of(private: Private) -> str:
    return private.swarm.edges["node-0"]


async def test_a_stranger_gets_no_answer_on_any_plane(private: Private, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(private.folder / "stranger"))
    with pytest.raises(OsaiError):
        await complete(private.swarm.address, max_tokens=2)
    async with insecure_channel(private.swarm.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client_pb2_grpc.CoordinatorStub(channel).ListModels(client_pb2.ListModelsRequest(), timeout=10)
    assert isinstance(error_of(caught.value), SwarmError)  # the connection is ended before there is a call


def test_tokens_are_good_once_for_their_role_and_their_time(private: Private) -> None:
    address, used = private.swarm.address, private.token(Role.CLIENT)
    environments = [("first", used, 0), ("second", used, 1), ("third", private.token(Role.CLIENT, life_s=1), 1)]
    time.sleep(1.1)
    for name, token, status in environments:
        private_client = os.environ | {"XDG_STATE_HOME": str(private.folder / name)}
        command = [sys.executable, "-m", "osai.client", "swarm", "join", address, "--token", token]
        done = subprocess.run(command, env=private_client, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr
        assert status == 0 or "token" in done.stderr
    other = SwarmFolder.create(private.folder / "other", time.time()).invite(Role.CLIENT, now_s=time.time(), life_s=60)
    done = private.osai("swarm", "join", "--token", other.text, address.replace("127.0.0.1", "localhost"))
    assert done.returncode == 1
    assert "was told nothing" in done.stderr
    role = private.osai("swarm", "join", "--token", private.token(Role.NODE), address.replace("127.0.0.1", "localhost"))
    assert role.returncode == 1


@pytest.mark.usefixtures("client_state")
async def test_a_client_can_not_speak_to_a_node(private: Private) -> None:
    from osai.client.private import find_member
    from osai.core.link import edge_link

    member = find_member([private.swarm.address])
    assert member is not None
    async with AsyncClient(private.swarm.address) as client:
        nodes = (await client.swarm()).nodes
    assert {node.node_id for node in nodes} == set(private.swarm.ids.values())
    stage = (await started_pipeline(private.swarm.address))[0]
    link = edge_link(stage.node_id, stage.address, member.tls.me.member_id, lambda _: None, tls=member.tls)
    error = await asyncio.wait_for(link.run(), 20)
    assert "may not call" in error.message


async def started_pipeline(address: str) -> tuple[common_pb2.Stage, ...]:
    from osai.client import Started

    async with AsyncClient(address) as client:
        async for event in client.generate(PROMPT, max_tokens=2):
            if isinstance(event, Started):
                return event.pipeline  # type: ignore[return-value]
    raise AssertionError("nothing was started")


@pytest.mark.usefixtures("client_state")
async def test_a_revoked_node_is_out_within_seconds_and_back_when_restored(private: Private) -> None:
    async with AsyncClient(private.swarm.address) as client:
        victim = private.swarm.ids["node-1"]
        running = asyncio.create_task(client.complete(PROMPT, ignore_eos=True, max_tokens=NUM_TOKENS))
        await asyncio.sleep(0.3)
        private.authority.revoke(victim, time.time())
        at_s = time.monotonic()

        async def is_out() -> bool:
            return all(node.node_id != victim for node in (await client.swarm()).nodes)

        while not await is_out():
            assert time.monotonic() - at_s < REVOKED_WITHIN_S
            await asyncio.sleep(0.2)
        with pytest.raises(NotCoveredError):
            await client.complete(PROMPT, max_tokens=2, ignore_eos=True)
        private.authority.restore(victim, time.time())
        completion = await asyncio.wait_for(running, 60)  # it waited for the layers, and went on
        assert len(completion.token_ids) == NUM_TOKENS
    wait_until(lambda: private.swarm.nodes["node-1"].process.poll() is None, 1.0, "the node to be there")
