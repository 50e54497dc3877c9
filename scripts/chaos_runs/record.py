"""Records what a release's members say to each other: `python -m scripts.chaos_runs.record CHECKOUT FILE`.

CHECKOUT is a working tree of that release. Its coordinator, its nodes and its client run on loopback with the embedded
model, a tap before each server. Peers that replay the file stand for that release in the tests.
"""

import asyncio
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
from scripts.benches.program import Program, running
from scripts.benches.relay import free_port
from scripts.chaos_runs.recording import Said
from scripts.chaos_runs.tap import Tap

from osai.client import AsyncClient
from osai.client.up.members import wait_for_members
from osai.core.embedded import MODEL_ID, model_dir, publisher_key_file
from osai.core.errors import SetupError
from osai.proto import client_pb2, control_pb2, edge_pb2

DEADLINE_S = 90.0
ROOMS = ("protos", "core", "client", "node", "coordinator")
SPANS = {"head": "0:2", "middle": "2:4", "tail": "4:6"}
PROMPT = [11, 340, 72, 501, 9, 88, 260, 33, 147]
NUM_TOKENS = 14
GENERATIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.9, "top_k": 40, "seed": 77},
)
KINDS: dict[str, tuple[type[Any], type[Any]]] = {  # by method: what the dialler says, and the server
    "/osai.v1.Edge/Link": (edge_pb2.LinkMessage, edge_pb2.LinkMessage),
    "/osai.v1.Control/Membership": (control_pb2.NodeMessage, control_pb2.CoordinatorMessage),
    "/osai.v1.Coordinator/Generate": (client_pb2.GenerateRequest, client_pb2.GenerateEvent),
}
ASK = """
import json, sys
from osai.client import Client
address, requests = sys.argv[1], json.loads(sys.argv[2])
with Client(address) as client:
    done = [client.complete(r.pop("prompt"), ignore_eos=True, **r) for r in requests]
print(json.dumps({"token_ids": [list(c.token_ids) for c in done], "texts": [c.text for c in done]}))
"""


class Recorder:
    """Starts the members, each behind its tap, and keeps what they say."""

    def __init__(self, stack: AsyncExitStack, checkout: Path, folder: Path) -> None:
        self._stack = stack
        self._path = ":".join(str(checkout / room) for room in ROOMS)
        self._folder = folder
        self._calls = itertools.count(1)
        self.said: list[Said] = []
        self.ids: dict[str, str] = {}
        self.address = ""

    async def start_coordinator(self) -> None:
        """The coordinator; `address` is its tap's from then on."""
        program = await self._run(
            "osai.coordinator", "coordinator", "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"
        )
        ready = await program.answer(DEADLINE_S)
        self.ids["coordinator"] = str(ready["id"])
        self.address = await self._tap("coordinator", str(ready["grpc"]))

    async def start_nodes(self, spans: dict[str, str]) -> None:
        """Nodes by name, and wait until the coordinator knows them all."""
        programs = {}
        for name, span in spans.items():
            port = free_port()
            announced = await self._tap(name, f"127.0.0.1:{port}")
            programs[name] = await self._run(
                "osai.node", name, "join", self.address, "--listen", f"127.0.0.1:{port}", "--announce", announced,
                "--model", MODEL_ID, "--span", span, "--weights", str(model_dir()), "--dtype", "float32",
                "--device", "cpu", "--threads", "1", "--name", name, "--memory", "200MiB",
            )  # fmt: skip
        ready = {name: await program.answer(DEADLINE_S) for name, program in programs.items()}
        self.ids |= {name: str(said["id"]) for name, said in ready.items()}
        await wait_for_members(self.address, [str(said["id"]) for said in ready.values()])

    async def ask(self, requests: Sequence[dict[str, Any]]) -> list[list[int]]:
        """Let the release's own client ask."""
        arguments = ("-c", ASK, self.address, json.dumps(requests))
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, env={"PYTHONPATH": self._path}
        )
        async with asyncio.timeout(DEADLINE_S):
            printed, _ = await process.communicate()
        if process.returncode:
            raise SetupError(f"the client ended with exit status {process.returncode}")
        return list(json.loads(printed)["token_ids"])

    async def _run(self, module: str, name: str, *arguments: str) -> Program:
        more = [
            "--dht",
            "127.0.0.1:0",
            "--state",
            str(self._folder / name),
            "--trust",
            str(publisher_key_file()),
            "--json",
        ]
        return await self._stack.enter_async_context(running(name, module, *arguments, *more, PYTHONPATH=self._path))

    async def _tap(self, name: str, target: str) -> str:
        return await self._stack.enter_async_context(
            Tap(name, target, self.said.append, lambda: next(self._calls)).laid()
        )


async def record(checkout: Path, file: Path) -> None:
    """Run the release's swarm, and write what it said."""
    requests = [{"prompt": PROMPT, "max_tokens": NUM_TOKENS, **options} for options in GENERATIONS]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="osai-record-")))
        recorder = Recorder(stack, checkout, folder)
        await recorder.start_coordinator()
        await recorder.start_nodes(SPANS)
        over_three = await recorder.ask(requests)
        await recorder.start_nodes({"whole": f"0:{SPANS['tail'].split(':')[1]}"})
        over_one = await recorder.ask(requests)
        async with AsyncClient(recorder.address) as client:
            software = (await client.swarm()).software
    if over_one != over_three:
        raise SetupError("the release's own tokens differ between one node and three: nothing to replay")
    about = {"software": software, "model": MODEL_ID, "requests": requests, "token_ids": over_three}
    kept = _kept(recorder.said)
    lines = [json.dumps({"about": about, "ids": recorder.ids}), *(said.line(kind_of(said)) for said in kept)]
    await asyncio.to_thread(file.write_text, "\n".join(lines) + "\n")


def kind_of(said: Said) -> str:
    """Which message it is; empty where it has no kinds."""
    kinds = KINDS.get(said.method)
    if kinds is None:
        return "hello" if said.method.endswith("/Greet") else ""
    message = kinds[0 if said.by_dialler else 1].FromString(said.data)
    return str(message.WhichOneof("kind")) if "kind" in message.DESCRIPTOR.oneofs_by_name else "request"


def _kept(said: Sequence[Said]) -> list[Said]:
    """Without what only asks how the swarm is, and of a node's heartbeats the first in each of its states."""
    told: set[tuple[int, str]] = set()
    kept = []
    for one in said:
        kind = kind_of(one)
        if kind == "heartbeat":
            state = control_pb2.NodeMessage.FromString(one.data).heartbeat.record.state
            if (one.call, state) in told:
                continue
            told.add((one.call, state))
        if kind:
            kept.append(one)
    return kept


@click.command()
@click.argument("checkout", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def main(checkout: Path, file: Path) -> None:
    """Record the members of CHECKOUT, a working tree of a release, into FILE."""
    asyncio.run(record(checkout, file))


if __name__ == "__main__":
    main()
