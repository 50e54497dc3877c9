"""The thread in which every torch operation of the engine runs."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import torch

from osai.core.errors import InternalError, OsaiError
from osai.node.engine.hosted_span import StepResult
from osai.node.engine.mailbox import Mailbox
from osai.node.engine.work import Call, Step

_log = logging.getLogger(__name__)


class EngineThread:
    """Takes work from the mailbox until that is closed.

    Args:
        mailbox: where work comes from.
        deliver: gets each step, its result and its seconds, in this thread.
        num_threads: torch threads, or None for torch's own choice.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        deliver: Callable[[Step, StepResult, float], None],
        num_threads: int | None,
    ) -> None:
        self._mailbox, self._deliver, self._num_threads = mailbox, deliver, num_threads
        self._thread = threading.Thread(target=self._main, name="osai-engine", daemon=True)
        self.ended: Future[None] = Future()  # its exception says why the thread died

    def start(self) -> None:
        """Begin to take work."""
        self._thread.start()

    async def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; whether it came in time, or the thread was never started."""
        if self._thread.ident is None:
            return True
        done, _ = await asyncio.wait([asyncio.wrap_future(self.ended)], timeout=timeout_s)
        for future in done:
            future.exception()  # told elsewhere
        return bool(done)

    def _main(self) -> None:
        reason = "the engine has stopped"
        try:
            if self._num_threads is not None:
                torch.set_num_threads(self._num_threads)
            while (work := self._mailbox.take()) is not None:
                if isinstance(work, Call):
                    work.run()
                else:
                    self._run_step(work)
        except BaseException as e:  # noqa: BLE001  the loop is told, or it would wait for ever
            reason = f"the engine thread died: {e!r}; restart the node"
            _log.critical("engine thread died", exc_info=True)
            self._mailbox.close(reason)
            self.ended.set_exception(InternalError(reason))
        else:
            self.ended.set_result(None)

    def _run_step(self, step: Step) -> None:
        start = time.perf_counter()
        try:
            result = step.hosted.run(step.parts)
        except Exception as e:  # noqa: BLE001  a step's failure is its sessions' alone
            _log.exception("a step of span %s failed", step.span)
            error = e if isinstance(e, OsaiError) else InternalError(f"a step of span {step.span} failed: {e!r}")
            result = StepResult(None, {}, dict.fromkeys(range(len(step.parts)), error))
        self._deliver(step, result, time.perf_counter() - start)
