"""The synchronous client: the asynchronous one, on a loop of its own in a thread."""

import asyncio
import concurrent.futures
import random
import threading
from collections.abc import Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, Unpack

from osai.client.aio import AsyncClient
from osai.client.events import Completion, Embedding, GenerationEvent
from osai.client.request import GenerationOptions, Prompt
from osai.client.retries import Retries
from osai.client.swarm import Model, Swarm
from osai.client.timeouts import Timeouts
from osai.core.errors import CancelledError

R = TypeVar("R")

SETTLE_DEADLINE_S = 5.0  # for a cancelled call to unwind, which takes no network


class _Call(Generic[R]):
    """Work on a loop, watched from another thread. What begins with `on_` is called on the loop.

    Whoever waits may be interrupted at any moment, also before it is known whether the work was handed over: so what is
    handed over is known before.
    """

    def __init__(self, work: Coroutine[Any, Any, R]) -> None:
        self.future: concurrent.futures.Future[R] = concurrent.futures.Future()
        self.ended = threading.Event()
        self._work = work
        self._task: asyncio.Task[R] | None = None

    def on_begin(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._task.add_done_callback(self._on_end)

    def on_cancel(self) -> None:
        """Unwind, if it has begun and not ended."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._work.close()
            self.ended.set()

    def _on_end(self, task: "asyncio.Task[R]") -> None:
        if task.cancelled():
            self.future.cancel()
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())
        self.ended.set()


class LoopThread:
    """An asyncio loop that runs in a daemon thread."""

    def __init__(self) -> None:
        self.stopped = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="osai-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run `work` on the loop and wait for it. KeyboardInterrupt cancels it, and is raised once it has unwound.

        Raises:
            CancelledError: if the loop has been stopped.
        """
        if self.stopped:
            work.close()
            raise CancelledError("the client is closed; open another one")
        call = _Call(work)
        try:
            self._loop.call_soon_threadsafe(call.on_begin)
            return call.future.result()
        except BaseException:
            if not call.ended.is_set():
                self._loop.call_soon_threadsafe(call.on_cancel)
                call.ended.wait(SETTLE_DEADLINE_S)
            raise

    def stop(self) -> None:
        """Close the generators that still run, then end the loop and its thread."""
        self.run(self._loop.shutdown_asyncgens())
        self.stopped = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SETTLE_DEADLINE_S)
        if not self._thread.is_alive():
            self._loop.close()


class Client:
    """Speaks to a swarm's coordinators, call by call; a context manager. Arguments and errors are AsyncClient's."""

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeouts: Timeouts | None = None,
        api_key: str | None = None,
        retries: Retries | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._client = AsyncClient(address, timeouts=timeouts, api_key=api_key, retries=retries, rng=rng)
        self._thread: LoopThread | None = None

    @property
    def address(self) -> str:
        """HOST:PORT of the coordinator that is asked first."""
        return self._client.address

    @property
    def coordinators(self) -> tuple[str, ...]:
        """HOST:PORT of all coordinators that are known."""
        return self._client.coordinators

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.run(self._client.close())
            thread.stop()

    def generate(
        self, prompt: Prompt, *, timeouts: Timeouts | None = None, **options: Unpack[GenerationOptions]
    ) -> Generator[GenerationEvent, None, None]:
        """Run one generation; see AsyncClient.generate. Closing the iterator, or KeyboardInterrupt, cancels it."""
        thread = self._running()
        events = self._client.generate(prompt, timeouts=timeouts, **options)

        async def following() -> GenerationEvent | None:
            return await anext(events, None)

        try:
            while (event := thread.run(following())) is not None:
                yield event
        finally:
            if not thread.stopped:
                thread.run(events.aclose())

    def complete(
        self, prompt: Prompt, *, timeouts: Timeouts | None = None, **options: Unpack[GenerationOptions]
    ) -> Completion:
        """Run one generation to its end; see AsyncClient.complete."""
        return self._running().run(self._client.complete(prompt, timeouts=timeouts, **options))

    def embed(
        self,
        prompt: str | Sequence[int],
        *,
        model_id: str = "",
        pooling: Literal["mean", "last"] = "mean",
        trusted_only: Sequence[str | bytes] | None = None,
        timeouts: Timeouts | None = None,
    ) -> Embedding:
        """The vector of a prompt; see AsyncClient.embed."""
        found = self._client.embed(
            prompt, model_id=model_id, pooling=pooling, trusted_only=trusted_only, timeouts=timeouts
        )
        return self._running().run(found)

    def models(self) -> tuple[Model, ...]:
        """The models that the swarm serves."""
        return self._running().run(self._client.models())

    def swarm(self) -> Swarm:
        """The swarm as this coordinator sees it."""
        return self._running().run(self._client.swarm())

    def _running(self) -> LoopThread:
        if self._thread is None:
            self._thread = LoopThread()
        return self._thread
