"""Runs a local swarm: starts the processes, watches them, and never leaves one behind."""

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from osai.client.up import watchdog
from osai.client.up.child import Child, describe_status
from osai.client.up.interrupts import Interrupts
from osai.client.up.plan import (
    CoordinatorReady,
    Programs,
    SwarmPlan,
    coordinator_arguments,
    node_arguments,
    node_name,
    parse_coordinator_ready,
    parse_node_ready,
)
from osai.client.up.report import RunningNode, note
from osai.core.errors import OsaiError, SetupError

Confirm = Callable[[str, Collection[str]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a local swarm may take.

    Attributes:
        start_s: until everything serves; imports and weights of several nodes on two cores take half a minute.
        stop_s: between asking and killing; draining and leaving the DHT take some seconds.
    """

    start_s: float = 120.0
    stop_s: float = 10.0


class LocalSwarm:
    """The processes of one run.

    Attributes:
        lost: whether a process ended before it was asked to.

    Args:
        plan: what to run.
        folder: keeps state and logs.
        programs: how coordinator and nodes are started.
        confirm: waits until the coordinator at HOST:PORT sees the nodes of these ids.
        deadlines: of start and stop.
    """

    def __init__(
        self, plan: SwarmPlan, folder: Path, programs: Programs, confirm: Confirm, deadlines: Deadlines
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._programs = programs
        self._confirm = confirm
        self._deadlines = deadlines
        self._run_id = uuid.uuid4().hex
        self._children: list[Child] = []
        self.lost = False

    @property
    def logs(self) -> dict[str, Path]:
        """Log files by name, there or not yet."""
        names = ["coordinator", *(node_name(i) for i in range(len(self._plan.spans)))]
        return {name: self._folder / f"{name}.log" for name in names}

    @asynccontextmanager
    async def guarded(self, interrupts: Interrupts) -> AsyncIterator[None]:
        """Whatever is started in the block is stopped after it; also if this process is killed."""
        guard = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", watchdog.__file__, self._run_id),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # it outlives what ends this process and its group
        )
        try:
            yield
        finally:
            await self._stop(interrupts)
            if guard.stdin is not None:
                guard.stdin.close()
            await guard.wait()

    async def start(self) -> tuple[CoordinatorReady, tuple[RunningNode, ...]]:
        """Start everything and wait until it serves.

        Raises:
            SetupError: if a process ends or the deadline passes; a ChildEndedError has the end of its log.
        """
        try:
            async with asyncio.timeout(self._deadlines.start_s), asyncio.TaskGroup() as group:
                watchers: list[asyncio.Task[None]] = []
                ready = await self._start_all(lambda child: watchers.append(group.create_task(_fail_at_end(child))))
                for watcher in watchers:
                    watcher.cancel()
                return ready
        except TimeoutError as e:
            raise SetupError(f"the swarm did not start within {self._deadlines.start_s:g} s; see {self._folder}") from e
        except BaseExceptionGroup as group:
            raise _first_error(group) from group

    async def watch(self) -> None:
        """Tell of each process that ends.

        Raises:
            SetupError: when none is left.
        """
        watching = {asyncio.create_task(child.ended()): child for child in self._children}
        try:
            while watching:
                done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self.lost = True
                    child = watching.pop(task)
                    note(f"{child.name} {describe_status(task.result())}; the rest goes on. Its log: {child.log_file}")
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        raise SetupError(f"every process of the swarm has ended; see {self._folder}")

    async def _start_all(self, watch: Callable[[Child], None]) -> tuple[CoordinatorReady, tuple[RunningNode, ...]]:
        arguments = coordinator_arguments(self._plan, self._folder / "coordinator")
        child = await self._start_child("coordinator", (*self._programs.coordinator, *arguments))
        watch(child)
        coordinator = parse_coordinator_ready(await child.ready_line())
        note(f"coordinator serves at {coordinator.grpc}")
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._start_node(i, coordinator.grpc, watch)) for i in range(len(self._plan.spans))
            ]
        nodes = tuple(task.result() for task in tasks)
        await self._confirm(coordinator.grpc, [node.ready.node_id for node in nodes])
        return coordinator, nodes

    async def _start_node(self, index: int, coordinator: str, watch: Callable[[Child], None]) -> RunningNode:
        name = node_name(index)
        arguments = node_arguments(self._plan, index, coordinator, self._folder / name)
        child = await self._start_child(name, (*self._programs.node, *arguments))
        watch(child)
        ready = parse_node_ready(await child.ready_line())
        note(f"{name} serves layers {', '.join(str(span) for _, span in ready.spans)}")
        return RunningNode(name=name, pid=child.pid, ready=ready)

    async def _start_child(self, name: str, command: Sequence[str]) -> Child:
        environment = {**os.environ, watchdog.MARK: self._run_id}
        child = await Child.start(name, command, self.logs[name], environment)
        self._children.append(child)
        return child

    async def _stop(self, interrupts: Interrupts) -> None:
        for child in self._children:
            child.terminate()
        ending = asyncio.gather(*(child.ended() for child in self._children))
        hurry = asyncio.create_task(interrupts.hurry.wait())
        await asyncio.wait((ending, hurry), timeout=self._deadlines.stop_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        with suppress(asyncio.CancelledError):
            await hurry
        for child in self._children:
            child.kill()
        await ending
        for child in self._children:
            await child.close()
        watchdog.send(signal.SIGKILL, self._run_id)  # grandchildren that left their group


async def _fail_at_end(child: Child) -> None:
    raise await child.failure()


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that came first, typed if there is one; groups may be nested."""
    flat = [_first_error(e) if isinstance(e, BaseExceptionGroup) else e for e in group.exceptions]
    return next((error for error in flat if isinstance(error, OsaiError)), flat[0])
