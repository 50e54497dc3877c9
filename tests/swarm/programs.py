"""Whole swarms of real processes for tests: coordinators and nodes on loopback, with their logs at hand."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from scripts.chaos_runs.forked import Forked

from osai.client.signing import build_manifest
from osai.core.identity import Identity
from osai.core.manifest import public_key_pem, sign

READY_DEADLINE_S = 90.0  # three nodes import torch at once on two busy cores
STOP_DEADLINE_S = 15.0


class Program:
    """One `osai-...` process that prints a JSON line when it is ready."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], folder: Path) -> None:
        self.name = name
        self.log_file = folder / f"{name}.log"
        self.process = Forked(module, arguments, self.log_file, os.environ)

    def ready(self) -> dict[str, Any]:
        """The JSON line."""
        readable, _, _ = select.select([self.process.stdout], [], [], READY_DEADLINE_S)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            self.kill()
            raise AssertionError(f"{self.name} did not get ready:\n{self.log()[-4000:]}")
        return dict(json.loads(line))

    def wait(self, timeout_s: float = STOP_DEADLINE_S) -> int:
        """Its exit status."""
        return self.process.wait(timeout_s)

    def log(self) -> str:
        """What it has written to standard error."""
        return self.log_file.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(STOP_DEADLINE_S)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process.stdout.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedModel:
    """A checkpoint with the manifest that a test's publisher has made for it."""

    model_id: str
    folder: Path
    manifest: Path


class Publisher:
    """A key that signs checkpoints, and where its public half lies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._identity = Identity.generate()
        self.public_key = folder / "publisher.pub"
        self.public_key.write_bytes(public_key_pem(self._identity.public_key))

    def sign(self, model_id: str, checkpoint: Path) -> SignedModel:
        """Sign a checkpoint; nothing is written into its folder."""
        path = self._folder / f"{model_id.replace('/', '_')}.json"
        path.write_bytes(sign(build_manifest(checkpoint, model_id, 1, None), self._identity))
        return SignedModel(model_id=model_id, folder=checkpoint, manifest=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """What one node is to host of a model; no span: as assigned."""

    model: SignedModel
    span: str = ""


@dataclass(slots=True)
class TestSwarm:
    """A coordinator and nodes. Use it as a context manager."""

    __test__ = False  # no test class

    folder: Path
    public_key: Path
    dtype: str = "float32"
    coordinator: Program | None = None
    address: str = ""
    http: str = ""
    dht: tuple[str, ...] = ()
    nodes: dict[str, Program] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    edges: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _stop([*self.nodes.values(), *([self.coordinator] if self.coordinator else [])])

    def stop_nodes(self) -> None:
        """End every node, killed and stopped ones too."""
        _stop(list(self.nodes.values()))
        self.nodes.clear()

    def serve(self, models: Sequence[SignedModel], *more: str) -> None:
        """Start the coordinator."""
        arguments = ["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dht", "127.0.0.1:0", "--json",
                     "--trust", str(self.public_key), "--state", str(self.folder / "coordinator")]  # fmt: skip
        for model in models:
            arguments += ["--model", str(model.folder), "--manifest", str(model.manifest)]
        self.coordinator = Program("coordinator", "osai.coordinator", [*arguments, *more], self.folder)
        ready = self.coordinator.ready()
        self.address, self.http, self.dht = ready["grpc"], ready["http"], tuple(ready["dht"])

    def start_node(
        self, name: str, hosted: Sequence[Hosted], *more: str, join: str = "", trust: Path | None = None
    ) -> Program:
        """Start a node, without waiting for it."""
        arguments = ["join", join or self.address, "--listen", "127.0.0.1:0", "--dht", "127.0.0.1:0", "--json",
                     "--trust", str(trust or self.public_key), "--state", str(self.folder / name), "--name", name,
                     "--dtype", self.dtype, "--threads", "1", "--device", "cpu"]  # fmt: skip
        for part in hosted:
            arguments += ["--model", part.model.model_id, "--weights", str(part.model.folder)]
            arguments += ["--span", part.span] if part.span else []
        program = Program(name, "osai.node", [*arguments, *more], self.folder)
        self.nodes[name] = program
        return program

    def add_nodes(self, hosted: Sequence[Sequence[Hosted]], *more: str) -> None:
        """Start nodes at once, named node-0, node-1, ..., and wait until all serve."""
        for i, parts in enumerate(hosted):
            self.start_node(f"node-{i}", parts, *more)
        for name, program in self.nodes.items():
            ready = program.ready()
            self.ids[name], self.edges[name] = ready["id"], ready["edge"]


def _stop(programs: Sequence[Program]) -> None:
    for program in programs:
        for number in (signal.SIGTERM, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                program.process.send_signal(number)
    for program in programs:
        program.stop()


def wait_until(condition: Any, timeout_s: float, what: str) -> float:  # noqa: ANN401 - any callable of no arguments
    """Poll until `condition()` holds; the seconds it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - start


async def chaos(folder: Path, *names: str, **shape: Any) -> list[str]:  # noqa: ANN401 - as of replace()
    """Run experiments of `scripts/chaos` once each, all on one swarm; what was wrong.

    Args:
        folder: for logs.
        names: of the experiments.
        shape: fields of their swarm's Shape that are to differ, so that it is small.
    """
    from scripts.chaos_runs.__main__ import EXPERIMENTS
    from scripts.chaos_runs.campaign import Campaign

    known = {one.name: one for one in EXPERIMENTS}
    campaign = Campaign(seed=1, num_runs=1, logs=folder)
    await campaign.run([replace(known[name], shape=replace(known[name].shape, **shape)) for name in names])
    assert len(campaign.ran) == len(names)
    return campaign.failures()
