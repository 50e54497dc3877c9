# ruff: noqa: T201 - what these programs print is their contract
"""`osai up` with programs that honour the contract of coordinator and node, and misbehave on request.

    python fake_programs.py up FOLDER SPANS [--verbose] [--stop-s S] [--start-s S] BEHAVIOUR...

A behaviour is NAME=WORD, as in node-2=fail; see `behave`. Every process appends its id to FOLDER/pids.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def remember(folder: Path, pid: int) -> None:
    with (folder / "pids").open("a") as pids:
        pids.write(f"{pid}\n")


def behave(words: list[str], folder: Path) -> None:
    """What happens before the ready line."""
    if "fail" in words:
        sys.exit("Traceback: the disk is full")
    if "hang" in words:
        time.sleep(600)
    if "slow" in words:
        time.sleep(1)
    if "stubborn" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "children" in words:  # one in the same group, one that left it
        for new_session in (False, True):
            remember(folder, subprocess.Popen(SLEEP, start_new_session=new_session).pid)
    if "chatty" in words:
        print("Welcome to a library that greets on standard output", flush=True)
    if "garbled" in words:
        print("{not JSON", flush=True)
    print("says hello to its log", file=sys.stderr, flush=True)


def program(role: str, behaviours: dict[str, list[str]], arguments: list[str]) -> None:
    """A coordinator (`serve`) or a node (`join`)."""
    parser = argparse.ArgumentParser()
    for option in ("--listen", "--http", "--dht", "--model", "--manifest", "--trust", "--state", "--span", "--weights",
                   "--dtype", "--device", "--threads", "--name"):  # fmt: skip
        parser.add_argument(option)
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("address", nargs="?")
    found = parser.parse_args(arguments)
    folder = Path(found.state).parent
    remember(folder, os.getpid())
    words = behaviours.get(found.name or "coordinator", [])
    behave(words, folder)
    ready: dict[str, Any]
    if role == "serve":
        ready = {"id": "c", "grpc": "127.0.0.1:1", "http": "http://127.0.0.1:2", "dht": ["/ip4/127.0.0.1/tcp/3"]}
    else:
        start, end = found.span.split(":")
        span = {"model": found.model, "start": int(start), "end": int(end)}
        ready = {"id": f"id-of-{found.name}", "edge": "127.0.0.1:4", "spans": [span]}
    print(json.dumps(ready), flush=True)
    if "brief" in words:
        sys.exit(4)
    while "noisy" in words:  # a pipe that nobody empties holds 64 KiB
        print("x" * 1000, flush=True)
        time.sleep(0.001)
    time.sleep(600)


async def nothing_to_confirm(coordinator: str, node_ids: Collection[str]) -> None:
    """The fake coordinator has no socket."""


def up(arguments: list[str]) -> None:
    """`osai up` with these programs."""
    from osai.client.up.plan import Programs, SwarmPlan, parse_spans
    from osai.client.up.run import run_swarm
    from osai.client.up.swarm import Deadlines
    from osai.core.errors import OsaiError

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("spans")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--start-s", type=float, default=30.0)
    parser.add_argument("--stop-s", type=float, default=10.0)
    parser.add_argument("behaviours", nargs="*")
    found = parser.parse_intermixed_args(arguments)
    command = (sys.executable, __file__, *found.behaviours)
    programs = Programs(coordinator=command, node=("/no/such/program",) if found.missing else command)
    plan = SwarmPlan(
        model_id="m", checkpoint=found.folder, trust=found.folder / "key.pub", spans=parse_spans(found.spans, 99)
    )
    try:
        outcome = asyncio.run(
            run_swarm(
                plan,
                found.folder,
                json_output=True,
                verbose=found.verbose,
                programs=programs,
                confirm=nothing_to_confirm,
                deadlines=Deadlines(start_s=found.start_s, stop_s=found.stop_s),
            )
        )
    except OsaiError as e:
        sys.exit(f"{getattr(e, 'tail', '')}\nerror: {e.message}")
    print(f"lost: {outcome.lost}", file=sys.stderr)
    sys.exit(outcome.exit_status)


def main(arguments: list[str]) -> None:
    if arguments[0] == "up":
        up(arguments[1:])
        return
    behaviours: dict[str, list[str]] = {}
    while arguments[0] not in {"serve", "join"}:
        name, _, word = arguments.pop(0).partition("=")
        behaviours.setdefault(name, []).append(word)
    program(arguments[0], behaviours, arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
