"""The engine as the node's shell sees it."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial

from osai.core.errors import DeadlineExceededError, InternalError, InvalidRequestError, OsaiError, UnavailableError
from osai.node.engine.admission import Admission
from osai.node.engine.api import Input, SessionSpec, StepOutput
from osai.node.engine.delivery import output_of
from osai.node.engine.engine_thread import EngineThread
from osai.node.engine.hosted_span import HostedSpan, StepResult
from osai.node.engine.mailbox import Mailbox
from osai.node.engine.options import EngineOptions, SpanInfo
from osai.node.engine.scheduler import StepScheduler
from osai.node.engine.session import Session
from osai.node.engine.span_model import SpanModel
from osai.node.engine.step_load import StepLoad
from osai.node.engine.work import Step


class Engine:
    """Hosts spans and runs their steps in one thread of its own. Every method is called on the event loop.

    `add_span`, `remove_span` and `measure` wait for the step in hand; everything else but `stop` waits for nothing.

    Args:
        loop: the loop on which all methods are called and on which both callbacks run.
        on_output: gets each step's results. Rows of sessions that were closed or cut back meanwhile are left out; a
            session named in `failed` is closed already.
        on_failure: gets the reason if the engine thread dies; every later call raises UnavailableError.
        options: see EngineOptions.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_output: Callable[[StepOutput], None],
        on_failure: Callable[[OsaiError], None],
        options: EngineOptions | None = None,
    ) -> None:
        self._loop, self._on_output, self._on_failure = loop, on_output, on_failure
        self._options = options or EngineOptions()
        self._admission = Admission()
        self._mailbox = Mailbox()
        self._thread = EngineThread(self._mailbox, self._deliver, self._options.num_threads)

    def start(self) -> None:
        """Start the thread."""
        self._thread.ended.add_done_callback(lambda _: self._soon(self._check_thread))
        self._mailbox.begin()
        self._thread.start()

    async def add_span(self, key: str, span_model: SpanModel, kv_budget_bytes: int) -> SpanInfo:
        """Host a loaded span: measure its KV bytes a token, allocate its KV blocks.

        Raises:
            InvalidRequestError: if a span of that key is hosted already.
            UnknownModelError: if the family's attention is of a kind that is not served.
            ResourceExhaustedError: if the budget is too small for one block, or the memory can't be had.
        """
        options = self._options
        limits = options.step_limits(span_model.device.type)
        create = partial(HostedSpan.create, span_model, kv_budget_bytes, options.block_size, limits.max_prefill_tokens)
        hosted = await asyncio.wrap_future(self._mailbox.call(create))
        if self._admission.has_span(key):
            raise InvalidRequestError(f"span {key} is hosted already; remove it first")
        info = hosted.info(key)
        self._admission.add_span(span_model, info, hosted.kv)
        self._mailbox.host(key, hosted, StepScheduler(limits))
        return info

    async def remove_span(self, key: str) -> None:
        """Drop a span, its KV blocks and its sessions (without a word to `on_output`). An unknown key is no error."""
        if not self._admission.has_span(key):
            return
        for session in list(self._admission.span(key).sessions.values()):
            self._end(session)
        self._admission.remove_span(key)
        self._mailbox.unhost(key)
        with contextlib.suppress(UnavailableError):  # a thread that has ended runs no step
            await asyncio.wrap_future(self._mailbox.call(lambda: None))  # until the step in hand has let go of it

    async def open(self, spec: SessionSpec) -> int:
        """Admit a session and set aside KV blocks for `max_total_tokens`.

        Blocks that hold the prompt's beginning already, by `block_hashes` and within `scope`, are shared. Rows that
        then begin before what is returned cut the session back to there, see `cut`.

        Returns:
            Tokens of the prompt, from the first on, whose keys and values are here already: rows may begin there, or
            before it. Whole blocks, and less than the prompt.

        Raises:
            InvalidRequestError: if the session is open already, its numbers make no sense, or it could never fit.
            UnknownModelError: if the span is not hosted.
            ResourceExhaustedError: if the span has too few free blocks.
        """
        self._mailbox.check_open()
        session = self._admission.open(spec)
        self._mailbox.open(session)
        return session.next_position

    def submit(self, inp: Input) -> None:
        """Queue rows for their step; never waits.

        Rows begin at the session's next position, or before it: then the session is cut back to there first, see `cut`.

        Raises:
            UnknownSessionError: if the session is not open.
            InvalidRequestError: if it can't be cut back so far, or more rows come at once than may ever wait.
            BadFrameError: if the rows leave a gap or pass max_total_tokens, or the data's shape, dtype or values are
                wrong (hidden states must be finite, token ids in the vocabulary).
            ResourceExhaustedError: if too many rows wait already, or shared blocks can't be replaced.
        """
        self._mailbox.check_open()
        session = self._admission.check_input(inp)
        self._cut(session, inp.rows.position)
        if self._mailbox.add(session, inp):
            self._loop.call_soon(self._mailbox.flush)  # what else comes in this go of the loop shares the step
        session.next_position = inp.rows.position + inp.rows.count

    async def cut(self, session: int, position: int) -> None:
        """Cut a session back: rows at `position` and later are forgotten, those that wait are dropped.

        Blocks that other sessions share are never written: the session gives up those that it would write, and gets
        others. Layers that see a window keep no more than a session needs to go on, and some blocks before it: the
        error says from where on it can be cut. To 0 it always can.

        Raises:
            UnknownSessionError: if the session is not open.
            InvalidRequestError: if `position` lies past the session's next one, or before what its layers with windows
                have kept.
            ResourceExhaustedError: if too few blocks are free to replace shared ones: the session can go on from where
                it is, or be closed.
        """
        self._mailbox.check_open()
        state = self._admission.session(session)
        if not 0 <= position <= state.next_position:
            raise InvalidRequestError(f"session {session} is at {state.next_position}, it can't be cut to {position}")
        self._cut(state, position)

    async def resume(self, spec: SessionSpec, position: int) -> None:
        """Let an open session go on from `position`, to which it is cut back, under another spec.

        Args:
            spec: what changes is sampling, what is known, and the pipeline; the KV set aside stays as it is.
            position: of the next row; not after that of the last known token, which is run to sample the next.

        Raises:
            UnknownSessionError: if the session is not open.
            InvalidRequestError: if the spec is one of another session, or the session can't go on from `position`.
            ResourceExhaustedError: as `cut` does.
        """
        self._mailbox.check_open()
        session, tail = self._admission.check_resume(spec, position)
        self._cut(session, position)
        session.spec, session.tail = spec, tail  # what is in hand is stale and counts for nothing, whatever it sees
        self._mailbox.resume(session)

    async def close(self, session: int, block_hashes: Sequence[bytes] = ()) -> None:
        """See `release`."""
        self.release(session, block_hashes)

    def release(self, session: int, block_hashes: Sequence[bytes] = ()) -> None:
        """End a session: its blocks are free at once, its waiting rows dropped. An unknown session is no error.

        Args:
            session: the session.
            block_hashes: of its full blocks, prompt and generated, from the first on (osai.core.prefix): later sessions
                may share those that were computed.
        """
        if (state := self._admission.find(session)) is not None:
            self._end(state, block_hashes)

    async def measure(self, key: str) -> float:
        """Seconds of one decode step of one short session on a span (median of a few).

        Raises:
            UnknownModelError: if the span is not hosted.
        """
        self._admission.span(key)
        seconds = await asyncio.wrap_future(self._mailbox.measure(key))
        if self._admission.has_span(key):
            self._mailbox.measured(key, seconds)
        return seconds

    def num_free_kv_tokens(self, key: str) -> int:
        """Tokens, prompt and generated, of the longest session that a span could still take.

        Raises:
            UnknownModelError: if the span is not hosted.
        """
        return self._admission.span(key).kv.num_free_tokens()

    def num_waiting_rows(self, key: str) -> int:
        """Rows of a span that wait for their step.

        Raises:
            UnknownModelError: if the span is not hosted.
        """
        self._admission.span(key)
        return self._mailbox.num_waiting(key)

    def load(self, key: str) -> StepLoad:
        """How busy a span is, and how fast of late.

        Raises:
            UnknownModelError: if the span is not hosted.
        """
        self._admission.span(key)
        return self._mailbox.load(key)

    async def stop(self) -> None:
        """End the thread after the step in hand; waiting rows are dropped.

        Raises:
            DeadlineExceededError: if the step in hand does not end within `stop_timeout_s`.
        """
        self._mailbox.close("the engine has stopped")
        limit = self._options.stop_timeout_s
        if not await self._thread.join(limit):
            raise DeadlineExceededError(f"the step in hand did not end within {limit} s; its thread is left behind")

    def _cut(self, session: Session, position: int) -> None:
        if position >= session.next_position:
            return
        self._admission.check_cut(session, position)
        self._mailbox.drop(session, position)  # first: what is in hand is stale before blocks change
        try:
            self._admission.cut(session, position)
        except OsaiError:  # the step in hand has let go of a block since the check
            self._end(session)
            raise

    def _end(self, session: Session, block_hashes: Sequence[bytes] = (), *, has_failed: bool = False) -> None:
        self._mailbox.close_session(session)
        self._admission.close(session, block_hashes, has_failed=has_failed)

    def _deliver(self, step: Step, result: StepResult, step_time_s: float) -> None:
        """In the thread: hand a step's results to the event loop."""
        self._soon(lambda: self._land(step, result, step_time_s))

    def _land(self, step: Step, result: StepResult, step_time_s: float) -> None:
        output = output_of(step, result, step_time_s)
        self._mailbox.landed(step)
        for rows, _ in output.failed:
            self._end(self._admission.session(rows.session), has_failed=True)
        if output.rows or output.failed:
            self._on_output(output)
        self._mailbox.flush()  # a node that is head and tail has added the next rows

    def _check_thread(self) -> None:
        if (error := self._thread.ended.exception()) is not None:
            self._on_failure(error if isinstance(error, OsaiError) else InternalError(repr(error)))

    def _soon(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback)
