"""The synchronous Client: a thin face, but nothing of the asynchronous one may get lost."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any

import pytest

from client.fake_coordinator import Event, FakeCoordinator, example_swarm, serving, started
from osai.client import Client, Finished, Started, Timeouts
from osai.client.blocking import LoopThread
from osai.core import errors
from osai.proto import client_pb2


def hang(request: client_pb2.GenerateRequest) -> Iterable[Event | float]:
    yield started()
    yield 30.0


def test_generate_complete_models_and_swarm() -> None:
    with serving(FakeCoordinator(swarm=example_swarm())) as address, Client(address) as client:
        events = list(client.generate("x"))
        assert isinstance(events[0], Started)
        assert isinstance(events[-1], Finished)
        assert client.complete("x").text == "All the world's a stage"
        assert client.models() == client.swarm().models
        assert client.address == address


def test_errors_keep_their_type() -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[errors.OsaiError]:
        yield errors.ContextExceededError("too long")

    with serving(FakeCoordinator(script)) as address, Client(address) as client:
        with pytest.raises(errors.ContextExceededError, match="too long"):
            client.complete("x")
        with pytest.raises(errors.ContextExceededError):
            list(client.generate("x"))


def test_deadline_holds() -> None:
    quick = Timeouts(first_token_s=0.2)
    with (
        serving(FakeCoordinator(hang)) as address,
        Client(address, timeouts=quick) as client,
        pytest.raises(errors.DeadlineExceededError),
    ):
        client.complete("x")


def test_closing_the_iterator_tells_the_coordinator() -> None:
    fake = FakeCoordinator(hang)
    with serving(fake) as address, Client(address) as client:
        events = client.generate("x")
        next(events)
        events.close()
        assert fake.gone.wait(5)


def test_closing_the_client_ends_a_generation_and_its_thread() -> None:
    fake = FakeCoordinator(hang)
    with serving(fake) as address:
        client = Client(address)
        events = client.generate("x")
        next(events)
        client.close()
        assert fake.gone.wait(5)
        with pytest.raises((errors.CancelledError, StopIteration)):
            next(events)
    assert not [thread for thread in threading.enumerate() if thread.name == "osai-client"]


def test_closed_client_can_be_used_again() -> None:
    with serving(FakeCoordinator()) as address:
        client = Client(address)
        for _ in range(2):
            assert client.complete("x").finish_reason == "length"
            client.close()


@pytest.mark.parametrize("call", ["complete", "generate"])
def test_keyboard_interrupt_cancels(call: str) -> None:
    fake = FakeCoordinator(hang)

    def interrupt() -> None:
        assert fake.arrived.wait(5)
        os.kill(os.getpid(), signal.SIGINT)

    with serving(fake) as address, Client(address) as client:
        other = threading.Thread(target=interrupt)
        other.start()
        with pytest.raises(KeyboardInterrupt):
            client.complete("x") if call == "complete" else list(client.generate("x"))
        other.join()
        assert fake.gone.wait(5)
        assert client.models() == ()  # the client lives on


@pytest.mark.parametrize("handed_over", [True, False])
def test_an_interrupt_while_work_is_handed_over_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch, handed_over: bool
) -> None:
    """Ctrl-C may come at any instruction: between the handing over, and the knowledge that it was."""
    thread = LoopThread()
    give, interrupts = thread._loop.call_soon_threadsafe, iter([True])

    def interrupted(*arguments: Any) -> Any:  # noqa: ANN401 - as the loop's
        if next(interrupts, False):
            if handed_over:
                give(*arguments)
            raise KeyboardInterrupt
        return give(*arguments)

    monkeypatch.setattr(thread._loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        thread.run(asyncio.Event().wait())
    assert not asyncio.all_tasks(thread._loop)
    thread.stop()


def test_import_is_light() -> None:
    """Neither torch, nor model code, nor numpy, nor much else: some 225 modules, in 0.2 s of a core."""
    program = (
        "import sys\n"
        "before = len(sys.modules)\n"
        "import osai.client\n"
        "heavy = {'torch', 'transformers', 'numpy', 'hivemind', 'rich', 'safetensors'} & sys.modules.keys()\n"
        "print(len(sys.modules) - before, *heavy)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    num_modules, *heavy = done.stdout.split()
    assert heavy == []
    assert int(num_modules) < 300
