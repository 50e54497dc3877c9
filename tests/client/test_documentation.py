"""The examples of docs/client.md, one by one, against a coordinator's own service for clients."""

import asyncio
import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from client.test_with_service import serving
from docs.blocks import Command, commands
from gateway.fake_generations import STAGES, FakeGenerations, Step, chunk, example_swarm, finished, token
from osai.coordinator import api

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "client.md"
ADDRESSES = ("swarm.example.org:7070", "second.example.org:7070")
DEADLINE_S = 60.0
EXAMPLES = commands(DOCUMENT)
PYTHON = [it for it in EXAMPLES if it.language == "python"]
PRINTED = (  # by each Python example, in the document's order
    "Hello world\n",
    "osai/demo, 3 nodes, seed 7\nHello world\n3 tokens, first after 0.25 s\n",
    "Hello world\nHello world\nHello world\n",
    "Hello world\n",
    "1 -0.5 [(1, -0.5)]\n1 -0.5 [(1, -0.5)]\n1 -0.5 [(1, -0.5)]\n",
    "Hello world\n",
    "16 tokens, 3 numbers\n",
    "Hello world\n",
    "length\n",
    "ADDRESS answered last; 1 are known\n",
    "length\n['osai/demo']\n",
    "osai/demo Apache-2.0 served\n" + "".join(f"node {i} ready ['osai/demo [0:2]']\n" for i in range(3)),
)


def answer(request: api.GenerationRequest) -> Sequence[Step]:
    """What a small model says, with the seed and the logprobs that were asked for."""
    likeliest = (-0.5, (1, "Hel", -0.5)) if request.sampling.num_logprobs is not None else ()
    started = api.Started(
        session_id="1" * 16, model_id="osai/demo", num_prompt_tokens=4, seed=request.sampling.seed, pipeline=STAGES
    )
    parts = [chunk(i, text, token(text, 1, *likeliest)) for i, text in enumerate(("Hel", "lo", " world"))]
    return [started, *parts, finished()]


def placed(command: Command, address: str) -> str:
    """An example as a reader types it whose swarm is at `address`."""
    text = command.text
    for name in ADDRESSES:
        text = text.replace(name, address)
    return text


def is_chat(request: api.GenerationRequest) -> bool:
    return isinstance(request.prompt[0], api.ChatMessage)


def run_python(text: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, str(DOCUMENT), "exec"), {"__name__": "__main__"})  # noqa: S102 - it is the repository's own
    return out.getvalue()


def run_shell(text: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    programs = folder / "programs"
    programs.mkdir()
    program = programs / "osai"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.path[:0] = {sys.path!r}\n"
                       "from osai.client.cli import main\nmain(prog_name='osai')\n")  # fmt: skip
    program.chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["bash", "-ec", text], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "printed"),
    [*zip([it for it in EXAMPLES if it.language == "python"], PRINTED, strict=True)],
    ids=range(len(PRINTED)),
)
async def test_every_python_example_does_what_it_says(command: Command, printed: str) -> None:
    async with AsyncExitStack() as stack:
        address = await serving(stack, FakeGenerations(script=answer, view=example_swarm()))
        async with asyncio.timeout(DEADLINE_S):
            out = await asyncio.to_thread(run_python, placed(command, address))
    assert out == printed.replace("ADDRESS", address)


async def test_every_command_works_one_after_another(tmp_path: Path) -> None:
    """As in a shell: what one exports, the next has."""
    typed = [it for it in EXAMPLES if it.language == "console"]
    assert len(typed) > 5
    async with AsyncExitStack() as stack:
        fake = FakeGenerations(script=answer, view=example_swarm())
        address = await serving(stack, fake)
        text = "\n".join(placed(command, address) for command in typed)
        done = await asyncio.to_thread(run_shell, text, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "osai/demo" in done.stdout
    assert done.stdout.endswith("Hello world\nHello world\n")
    assert "error" not in done.stderr
    assert "_OSAI_COMPLETE=zsh_complete" in (tmp_path / "_osai").read_text()
    assert "_OSAI_NODE_COMPLETE=bash_complete" in (tmp_path / "osai-node.bash").read_text()
    # the generations of the two commands, and the chat's two questions
    assert [len(request.prompt) for request in fake.requests if is_chat(request)] == [1, 3]


def test_every_public_name_is_told_of_or_is_found_from_there() -> None:
    """Whoever reads the document meets the clients, their bounds, and every event."""
    text = DOCUMENT.read_text()
    for name in ("AsyncClient", "Client", "Timeouts", "Retries", "GenerationOptions", "ChatMessage", "Started", "Chunk",
                 "Rerouted", "Waiting", "Finished", "Completion", "partial_of"):  # fmt: skip
        assert re.search(rf"\b{name}\b", text), name
