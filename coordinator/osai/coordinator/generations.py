"""Runs generations: the shell around routing and session supervision, behind every front door."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from osai.coordinator.admission import QueueConfig
from osai.coordinator.api import GenerationEvent, GenerationRequest, StageView, Started, SwarmView
from osai.coordinator.catalog import Catalog, ServedModel
from osai.coordinator.plan import GenerationPlan, plan_generation
from osai.coordinator.routing import find_pipeline
from osai.coordinator.session import Emit, End, SendPrompt, Session, SupervisionConfig
from osai.coordinator.session_runner import Happening, SessionRunner, read_happenings
from osai.coordinator.swarm import Swarm
from osai.coordinator.transcript import Transcript
from osai.coordinator.waiting_room import WaitingRoom
from osai.coordinator.wire import write_opens
from osai.core.errors import (
    AssignmentError,
    InvalidRequestError,
    OsaiError,
    ResourceExhaustedError,
    UnavailableError,
)
from osai.core.link_pool import LinkPool
from osai.proto import edge_pb2

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # pipelines tried in a row until one opens: a record may outlive its node, or its KV, by some seconds
# one node's trouble, not the request's; what one can never fit, a larger one may
TRY_ELSEWHERE = (UnavailableError, ResourceExhaustedError, AssignmentError, InvalidRequestError)

Refusals = dict[str, OsaiError]  # node id -> why it could not open the session


class SwarmGenerations:
    """Implements osai.coordinator.api.Generations over a swarm. All of it runs on the loop.

    Args:
        view: gives the swarm as front doors show it.
        queue: bounds of each model's queue for KV.
    """

    def __init__(
        self,
        coordinator_id: str,
        catalog: Catalog,
        swarm: Swarm,
        view: Callable[[], SwarmView],
        config: SupervisionConfig | None = None,
        queue: QueueConfig | None = None,
    ) -> None:
        self._catalog = catalog
        self._swarm = swarm
        self._view = view
        self._config = config or SupervisionConfig()
        queue = queue or QueueConfig()
        self._rooms = {model.model_id: WaitingRoom(model.model_id, queue) for model in catalog.models}
        self._running: dict[int, SessionRunner] = {}
        self.links = LinkPool(coordinator_id, self._heard, self._lost)

    def swarm(self) -> SwarmView:
        """The swarm as it is now."""
        return self._view()

    def num_queued(self, model_id: str) -> int:
        """Requests for a model that wait for KV."""
        return self._rooms[model_id].num_queued

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """See osai.coordinator.api.Generations."""
        started_s = time.monotonic()
        model = self._catalog.get(request.model_id)
        plan = await asyncio.to_thread(lambda: plan_generation(request, model.encode(request.prompt), model.facts))
        with self._rooms[model.model_id].place() as place:
            while True:
                await place.turn()
                try:
                    async with aclosing(self._try(model, plan, started_s)) as events:
                        async for event in events:
                            place.admitted()
                            yield event
                except ResourceExhaustedError as e:
                    if place.is_admitted:
                        raise
                    place.refused(e)
                else:
                    return

    async def _try(
        self, model: ServedModel, plan: GenerationPlan, started_s: float
    ) -> AsyncGenerator[GenerationEvent, None]:
        """One generation on the first pipeline that opens.

        Raises:
            ResourceExhaustedError: before the first event, if one would open once it had KV.
        """
        refusals: Refusals = {}
        while pipeline := self._next_pipeline(model, plan, refusals):
            begun = False
            try:
                async with aclosing(self._attempt(model, plan, pipeline, started_s)) as events:
                    async for event in events:
                        begun = True
                        yield event
            except TRY_ELSEWHERE as e:
                if begun or all(stage.node_id != e.subject for stage in pipeline):
                    raise
                log.info("session refused by %s: %s", e.subject, e)
                refusals[e.subject] = e
            else:
                return
        raise _telling(refusals)

    def _next_pipeline(
        self, model: ServedModel, plan: GenerationPlan, refusals: Refusals
    ) -> tuple[StageView, ...] | None:
        if len(refusals) == MAX_ATTEMPTS:
            return None
        return find_pipeline(
            self._swarm.nodes, model, plan.max_total_tokens, sessions=self._sessions_by_node(), avoid=refusals
        )

    async def _attempt(
        self, model: ServedModel, plan: GenerationPlan, pipeline: tuple[StageView, ...], started_s: float
    ) -> AsyncGenerator[GenerationEvent, None]:
        """One session on one pipeline; an error before the first event names the stage to avoid."""
        runner = self._make_runner(model, plan, pipeline)
        transcript = Transcript(model.tokenizer, plan, started_s)
        self._running[runner.number] = runner
        try:
            async with aclosing(runner.run()) as happenings:
                async for happening in happenings:
                    match happening:
                        case SendPrompt():
                            yield _started(runner, model, plan)
                        case Emit():
                            chunk = transcript.add(happening.token, time.monotonic())
                            if transcript.stopped:
                                await happenings.aclose()  # before the client takes its time with the chunk
                                yield chunk
                                yield transcript.finished("stop")
                                return
                            yield chunk
                        case End(error=None):
                            yield transcript.finished(happening.reason)
                        case End(error=OsaiError() as error):
                            raise error
        finally:
            del self._running[runner.number]

    def _make_runner(self, model: ServedModel, plan: GenerationPlan, pipeline: tuple[StageView, ...]) -> SessionRunner:
        session = Session(pipeline, len(plan.prompt), self._config, time.monotonic())
        number = secrets.randbits(64)
        opens = write_opens(number, session.epoch, model.model_id, model.manifest.digest, pipeline, plan)
        return SessionRunner(number, session, self.links, opens, plan)

    def _sessions_by_node(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for runner in self._running.values():
            for stage in runner.session.pipeline:
                counts[stage.node_id] = counts.get(stage.node_id, 0) + 1
        return counts

    def _heard(self, node_id: str, message: edge_pb2.LinkMessage) -> None:
        for number, happening in read_happenings(node_id, message):
            self._tell(number, happening)

    def _tell(self, number: int, happening: Happening) -> None:
        if runner := self._running.get(number):  # else it has ended, and this comes late
            runner.happened(happening)

    def _lost(self, node_id: str, reason: OsaiError) -> None:
        self._swarm.lost(node_id, time.monotonic())
        for number in self._running:
            self._tell(number, lambda session, _: session.lost(node_id, reason))


def _started(runner: SessionRunner, model: ServedModel, plan: GenerationPlan) -> Started:
    return Started(
        session_id=f"{runner.number:016x}",
        model_id=model.model_id,
        num_prompt_tokens=len(plan.prompt),
        seed=plan.sampling.seed,
        pipeline=runner.session.pipeline,
        num_cached_tokens=runner.session.num_cached_tokens,
    )


def _telling(refusals: Refusals) -> OsaiError:
    """The refusal to act on: want of KV passes, so it goes before what does not."""
    errors = list(refusals.values())
    return next((error for error in errors if isinstance(error, ResourceExhaustedError)), errors[-1])
