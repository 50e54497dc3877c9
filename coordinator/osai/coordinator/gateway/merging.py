"""Several generations as one row of events."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from osai.coordinator.api import GenerationEvent

Events = AsyncGenerator[GenerationEvent, None]
Indexed = AsyncGenerator[tuple[int, GenerationEvent], None]
_MAX_WAITING = 8  # events; a client that reads slowly holds the generations back


async def merged(runs: Sequence[Events]) -> Indexed:
    """The events of all runs as they come, each with its run's index. The first error ends it, and all runs.

    Closing it closes all runs, and waits for that.
    """
    if len(runs) == 1:  # as almost always: nothing between
        async with aclosing(runs[0]) as events:
            async for only in events:
                yield 0, only
        return
    waiting: asyncio.Queue[tuple[int, GenerationEvent | None]] = asyncio.Queue(_MAX_WAITING)
    tasks = [asyncio.create_task(_pump(index, run, waiting)) for index, run in enumerate(runs)]
    try:
        num_running = len(tasks)
        while num_running:
            index, event = await waiting.get()
            if event is not None:
                yield index, event
                continue
            num_running -= 1
            await tasks[index]  # raises what ended it
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(index: int, run: Events, waiting: asyncio.Queue[tuple[int, GenerationEvent | None]]) -> None:
    try:
        async with aclosing(run) as events:
            async for event in events:
                await waiting.put((index, event))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # nobody reads any more
        await waiting.put((index, None))  # out of the generation: a failure of it
        raise
    except BaseException:
        await waiting.put((index, None))
        raise
    else:
        await waiting.put((index, None))
