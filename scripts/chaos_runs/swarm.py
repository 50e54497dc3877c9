"""A swarm of real processes on loopback whose members are killed, stopped, cut off, and brought back."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from scripts.benches.relay import free_port
from scripts.chaos_runs.admission import Admission
from scripts.chaos_runs.member import Member
from scripts.chaos_runs.model import SPANS, ChaosModel
from scripts.chaos_runs.shim import Network, Shim

from osai.client import AsyncClient
from osai.core.admission import Role
from osai.core.errors import OsaiError
from osai.core.layers import LayerRange

POLL_S = 0.1
HEAL_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a swarm is made of.

    Attributes:
        num_replicas: nodes of each span.
        num_coordinators: of which each node finds all.
        options: of each coordinator.
        is_relayed: whether what members say to each other goes through relays; the DHT's never does.
        spans: one a stage.
        dtype: of the nodes.
        memory: of each node.
        is_private: members have certificates, and all that they say is encrypted.
        is_measured: coordinators are not forked, so that their memory is their own.
    """

    num_replicas: int = 2
    num_coordinators: int = 1
    options: tuple[str, ...] = ()
    is_relayed: bool = False
    spans: tuple[LayerRange, ...] = SPANS
    dtype: str = "float32"
    memory: str = "256MiB"
    is_private: bool = False
    is_measured: bool = False


class ChaosSwarm:
    """The members by name: coordinator-0, ..., node-0a for the first stage's first replica, ..."""

    def __init__(self, shape: Shape, model: ChaosModel, folder: Path, draw: random.Random) -> None:
        self.shape = shape
        self.folder = folder
        self.network = Network(draw, self._owner_of)
        self.coordinators: dict[str, Member] = {}
        self.nodes: dict[str, Member] = {}
        self._addresses: dict[str, str] = {}
        self._model = model
        self._admission = Admission.of(folder) if shape.is_private else None

    @property
    def addresses(self) -> tuple[str, ...]:
        """HOST:PORT of the coordinators, for clients; no relay lies between."""
        return tuple(self._addresses.values())

    @property
    def members(self) -> dict[str, Member]:
        """All of them."""
        return {**self.coordinators, **self.nodes}

    def address_of(self, coordinator: str) -> str:
        """HOST:PORT of a coordinator."""
        return self._addresses[coordinator]

    def name_of(self, node_id: str) -> str:
        """The name of a node."""
        return next(name for name, member in self.nodes.items() if member.ready.get("id") == node_id)

    def of_stage(self, index: int) -> tuple[str, ...]:
        """Names of the nodes of one stage."""
        return tuple(name for name in self.nodes if name.startswith(f"node-{index}"))

    async def start(self, stack: AsyncExitStack) -> None:
        """Start all, and wait until all serve; `stack` ends them."""
        stack.push_async_callback(self._end)
        for i in range(self.shape.num_coordinators):
            await self._start_coordinator(stack, f"coordinator-{i}")
        for index in range(len(self.shape.spans)):
            for replica in range(self.shape.num_replicas):
                await self._start_node(stack, f"node-{index}{chr(ord('a') + replica)}", index)
        for member in self.nodes.values():
            await member.wait_ready()
        await self.wait_whole()

    async def kill(self, *names: str) -> None:
        """SIGKILL, as good as at once."""
        for name in names:
            with suppress(ProcessLookupError):
                self.members[name].send(signal.SIGKILL)
        for name in names:
            await self.members[name].kill()

    async def restart(self, *names: str) -> None:
        """Start members again that have gone."""
        for name in names:
            await self.members[name].start()
        for name in names:
            await self.members[name].wait_ready()

    async def heal(self) -> float:
        """Make the swarm whole: end partitions, continue stopped members, start killed ones; how long it took."""
        begun_s = asyncio.get_running_loop().time()
        self.network.heal()
        members = self.members
        for member in members.values():
            if member.is_alive and member.is_stopped:
                member.send(signal.SIGCONT)
        await self.restart(*(name for name, member in members.items() if not member.is_alive))
        await self.wait_whole()
        return asyncio.get_running_loop().time() - begun_s

    async def wait_whole(self, limit_s: float = HEAL_DEADLINE_S) -> None:
        """Wait until every coordinator sees every node serve.

        Raises:
            TimeoutError: if one does not in time.
        """
        due = {member.ready["id"] for member in self.nodes.values() if member.is_alive and not member.is_stopped}
        async with asyncio.timeout(limit_s):
            for address in self.addresses:
                async with AsyncClient(address) as client:
                    while not due <= await _serving(client):  # noqa: ASYNC110 - nothing tells of a change
                        await asyncio.sleep(POLL_S)

    async def _start_coordinator(self, stack: AsyncExitStack, name: str) -> None:
        listen, announce = await self._lay(stack, name)
        model = self._model
        arguments = ["serve", *_at("--listen", listen), *_at("--http", _free()), *_at("--dht", _free()),
                     *_at("--announce", announce), "--json", "--trust", str(model.trust), "--state",
                     str(self.folder / f"{name}-state"), "--model", str(model.folder), "--manifest",
                     str(model.manifest), *self.shape.options, *self._admitted(Role.COORDINATOR)]  # fmt: skip
        is_forked = not self.shape.is_measured
        member = Member(name, "osai.coordinator", arguments, self.folder, is_forked=is_forked)
        self.coordinators[name] = member
        first = next(iter(self.coordinators.values()))
        member.more = () if member is first else ("--join", first.ready["dht"][0])
        await member.start()
        await member.wait_ready()
        if first is not member:  # whoever comes back finds the swarm through those that stayed
            first.more = ("--join", member.ready["dht"][0])
        self._addresses[name] = listen
        if self._admission is not None:
            await self._admission.join_client(listen)

    async def _start_node(self, stack: AsyncExitStack, name: str, index: int) -> None:
        listen, announce = await self._lay(stack, name)
        first = next(iter(self._addresses.values()))
        join = f"{Shim.LISTENS}:{first.rpartition(':')[2]}"
        model = self._model
        arguments = ["join", join, *_at("--listen", listen), *_at("--announce", announce), *_at("--dht", _free()),
                     "--json", "--trust", str(model.trust), "--state", str(self.folder / f"{name}-state"),
                     "--name", name, "--dtype", self.shape.dtype, "--threads", "1", "--device", "cpu", "--memory",
                     self.shape.memory,
                     "--model", model.model_id, "--weights", str(model.folder), "--span",
                     str(self.shape.spans[index]), *self._admitted(Role.NODE)]  # fmt: skip
        self.nodes[name] = Member(name, "osai.node", arguments, self.folder)
        await self.nodes[name].start()

    def _admitted(self, role: Role) -> Sequence[str]:
        """Options by which a member gets into a private swarm."""
        return self._admission.options(role, next(iter(self._addresses.values()), "")) if self._admission else ()

    async def _lay(self, stack: AsyncExitStack, name: str) -> tuple[str, str]:
        """Where a member listens, and what it announces."""
        port = free_port()
        if not self.shape.is_relayed:
            return f"{Shim.LISTENS}:{port}", ""
        await stack.enter_async_context(Shim(self.network, name, port).laid())
        return f"{Shim.SERVES}:{port}", Shim.LISTENS

    async def _end(self) -> None:
        self.network.heal()
        await asyncio.gather(*(member.end() for member in self.nodes.values()))
        await asyncio.gather(*(member.end() for member in self.coordinators.values()))

    def _owner_of(self, port: int) -> str:
        for name, member in self.members.items():
            with suppress(psutil.Error, OsaiError, OSError):  # it is killed while it is looked at
                if any(c.laddr.port == port for c in psutil.Process(member.pid).net_connections("tcp")):
                    return name
        return ""


async def _serving(client: AsyncClient) -> set[str]:
    with suppress(OsaiError):
        swarm = await client.swarm()
        return {
            node.node_id
            for node in swarm.nodes
            if node.state == "ready" and node.spans and all(span.state == "ready" for span in node.spans)
        }
    return set()


def _at(option: str, value: str) -> Sequence[str]:
    return (option, value) if value else ()


def _free() -> str:
    return f"{Shim.LISTENS}:{free_port()}"


@asynccontextmanager
async def chaos_swarm(shape: Shape, model: ChaosModel, folder: Path, draw: random.Random) -> AsyncIterator[ChaosSwarm]:
    """A swarm that serves; its logs stay in `folder`."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        swarm = ChaosSwarm(shape, model, folder, draw)
        await swarm.start(stack)
        yield swarm
