"""Runs generations: the shell around routing and session supervision, behind every front door."""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from osai.coordinator.admission import QueueConfig
from osai.coordinator.api import (
    Embedding,
    EmbeddingRequest,
    GenerationEvent,
    GenerationRequest,
    Rerouted,
    Resumption,
    StageView,
    SwarmView,
)
from osai.coordinator.catalog import Catalog, ServedModel
from osai.coordinator.embedding import read_vector, verdict
from osai.coordinator.plan import GenerationPlan, plan_embedding, plan_generation
from osai.coordinator.recoveries import Recoveries
from osai.coordinator.sessions.generation import Generation, new_number
from osai.coordinator.sessions.refusals import TRY_ELSEWHERE, Refusals
from osai.coordinator.sessions.route_finder import RouteFinder
from osai.coordinator.sessions.runner import Happening, SessionRunner, read_happenings
from osai.coordinator.sessions.session import Session, SupervisionConfig
from osai.coordinator.sessions.stage_links import StageLinks
from osai.coordinator.sessions.watch import SessionWatch
from osai.coordinator.swarm import Swarm
from osai.coordinator.tracing.phases import Phase, enter
from osai.coordinator.waiting_room import WaitingRoom
from osai.core.errors import (
    InvalidRequestError,
    NotCoveredError,
    OsaiError,
    ResourceExhaustedError,
    UnavailableError,
)
from osai.core.link_pool import LinkPool
from osai.core.member_tls import MemberTls
from osai.core.prefix import secret_salt
from osai.proto import edge_pb2

log = logging.getLogger(__name__)

T = TypeVar("T")
Events = AsyncGenerator[GenerationEvent, None]


class SwarmGenerations:
    """Implements osai.coordinator.api.Generations over a swarm. All of it runs on the loop.

    Args:
        view: gives the swarm as front doors show it.
        queue: bounds of each model's queue for KV.
        standby: let another node follow each stage of a session, where there is one.
        tls: of this coordinator; None in a public swarm.
    """

    def __init__(
        self,
        coordinator_id: str,
        catalog: Catalog,
        swarm: Swarm,
        view: Callable[[], SwarmView],
        config: SupervisionConfig | None = None,
        queue: QueueConfig | None = None,
        *,
        standby: bool = False,
        tls: MemberTls | None = None,
    ) -> None:
        self._catalog = catalog
        self._swarm = swarm
        self._view = view
        self._config = config or SupervisionConfig()
        self._standby = standby
        self._started_s = time.monotonic()
        self._secret = secrets.token_bytes(32)  # for names of KV (osai.core.prefix)
        queue = queue or QueueConfig()
        self._rooms = {model.model_id: WaitingRoom(model.model_id, queue) for model in catalog.models}
        self._running: dict[int, SessionRunner] = {}
        self.recoveries = Recoveries()
        self.links = LinkPool(coordinator_id, self._heard, self._lost, tls=tls)
        self._stages = StageLinks(self.links)
        self._watch = SessionWatch(self._running, swarm, self._stages)

    def swarm(self) -> SwarmView:
        """The swarm as it is now."""
        return self._view()

    def num_queued(self, model_id: str) -> int:
        """Requests for a model that wait for KV."""
        return self._rooms[model_id].num_queued

    def swarm_changed(self) -> None:
        """A node has come, or serves something else: sessions that wait for a pipeline look again at once."""
        for runner in self._running.values():
            runner.happened(lambda session, now_s: session.swarm_changed(now_s))

    def leave(self) -> None:
        """This coordinator stops: what its sessions have computed stays where it is, for another one to go on with."""
        self._stages.leave()

    async def generate(self, request: GenerationRequest) -> Events:
        """See osai.coordinator.api.Generations."""
        started_s = time.monotonic()
        model = self._catalog.get(request.model_id)
        salt = secret_salt(self._secret, request.trusted_operators)
        plan = await asyncio.to_thread(
            lambda: plan_generation(request, model.encode(request.prompt, request.tools), model.facts, salt)
        )
        if plan.grammar is not None and model.check_grammar is not None:
            await asyncio.to_thread(model.check_grammar, plan.grammar)
        generation = self._generation(model, plan)
        running = (
            self._admitted(generation, model, lambda session: generation.run(session, new_number(), started_s))
            if request.resume is None
            else self._resumed(generation, model, request.resume, started_s)
        )
        async with aclosing(running) as events:
            async for event in events:
                yield event

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """See osai.coordinator.api.Generations. It is one prefill: what a stage loses is begun again."""
        model = self._catalog.get(request.model_id)
        salt = secret_salt(self._secret, request.trusted_operators)
        plan = await asyncio.to_thread(lambda: plan_embedding(request, model.encode(request.prompt), model.facts, salt))
        generation = self._generation(model, plan)
        once = replace(self._config, max_reroutes=0)
        for attempt in itertools.count(1):
            running = self._admitted(generation, model, lambda session: generation.embed(session, new_number()), once)
            try:
                async with aclosing(running) as found:
                    vectors = [vector async for vector in found if vector is not None]
            except UnavailableError as e:
                if (error := verdict(e, attempt)) is not None:
                    raise error from e
                log.info("a vector is made anew: %s", e)
            else:
                break
        vector = read_vector(vectors[0] if vectors else b"", model.facts.hidden_size)
        return Embedding(model_id=model.model_id, num_prompt_tokens=len(plan.prompt), vector=vector)

    def _generation(self, model: ServedModel, plan: GenerationPlan) -> Generation:
        self._watch.start()
        return Generation(
            model,
            plan,
            routes=RouteFinder(model, plan, self._swarm, self._sessions_by_node),
            stages=self._stages,
            running=self._running,
            on_rerouted=self._rerouted,
        )

    async def _admitted(
        self,
        generation: Generation,
        model: ServedModel,
        run: Callable[[Session], AsyncGenerator[T, None]],
        config: SupervisionConfig | None = None,
    ) -> AsyncGenerator[T, None]:
        """A new session, as soon as there is room for it."""
        with self._rooms[model.model_id].place() as place:
            while True:
                enter(Phase.QUEUEING)
                await place.turn()
                try:
                    async with aclosing(self._try(generation, run, config)) as events:
                        async for event in events:
                            place.admitted()
                            yield event
                except ResourceExhaustedError as e:
                    if place.is_admitted:
                        raise
                    place.refused(e)
                else:
                    return

    async def _resumed(
        self, generation: Generation, model: ServedModel, resume: Resumption, started_s: float
    ) -> Events:
        """A session that another coordinator ran, or this one before it was restarted: it had its place already.

        Raises:
            InvalidRequestError: if a token that the client has is not in the model's vocabulary.
            ContextExceededError: if it has more than the generation may have.
        """
        vocab_size = model.facts.vocab_size
        if wrong := [token.token_id for token in resume.tokens if not 0 <= token.token_id < vocab_size]:
            raise InvalidRequestError(f"known token {wrong[0]} is not in the model's vocabulary of {vocab_size}")
        session = Session(
            resume.pipeline,
            len(generation.plan.prompt),
            self._config,
            time.monotonic(),
            num_tokens=len(resume.tokens),
            attempt=resume.attempt,
            with_standbys=self._standby,
        )
        with self._rooms[model.model_id].place() as place:
            place.admitted()
            async with aclosing(generation.run(session, resume.session, started_s, resume.tokens)) as events:
                async for event in events:
                    yield event

    async def _try(
        self,
        generation: Generation,
        run: Callable[[Session], AsyncGenerator[T, None]],
        config: SupervisionConfig | None,
    ) -> AsyncGenerator[T, None]:
        """A new session on the first pipeline that opens.

        Raises:
            ResourceExhaustedError: before the first event, if one would open once it had KV.
        """
        refusals, until_s = Refusals(), time.monotonic() + self._config.coverage_wait_s
        num_tokens = len(generation.plan.prompt)
        while pipeline := await self._next_pipeline(refusals, generation.routes):
            session = Session(
                pipeline,
                num_tokens,
                config or self._config,
                time.monotonic(),
                with_standbys=self._standby and config is None,
            )
            begun = False
            enter(Phase.OPENING)
            try:
                async with aclosing(run(session)) as events:
                    async for event in events:
                        begun = True
                        yield event
            except TRY_ELSEWHERE as e:
                if begun or all(stage.node_id != e.subject for stage in pipeline):
                    raise
                log.info("session refused by %s: %s", e.subject, e)
                refusals.add(e)
                if time.monotonic() >= until_s:
                    break
            else:
                return
        raise refusals.verdict()

    async def _next_pipeline(self, refusals: Refusals, routes: RouteFinder) -> tuple[StageView, ...] | None:
        asked_s, is_stale = time.monotonic(), refusals.tells_of_change
        enter(Phase.ROUTING)
        while True:
            is_settled = self._is_settled(asked_s, time.monotonic(), is_stale=is_stale)
            try:
                pipeline = refusals.next_pipeline(routes)
                if pipeline or is_settled or not refusals.forget_passing():
                    return pipeline
            except NotCoveredError:
                if is_settled:
                    raise
            await asyncio.sleep(self._config.retry_s)

    def _is_settled(self, asked_s: float, now_s: float, *, is_stale: bool) -> bool:
        """Whether nodes that this coordinator does not see need not be waited for, by a request of that moment."""
        since_s = asked_s if is_stale or self._swarm.expects(now_s) else self._started_s
        return now_s >= since_s + self._config.settle_s

    def _sessions_by_node(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for runner in self._running.values():
            for node_id in runner.session.nodes:
                counts[node_id] = counts.get(node_id, 0) + 1
        return counts

    def _rerouted(self, rerouted: Rerouted) -> None:
        log.info("a session goes on elsewhere after %.3f s: %s", rerouted.pause_s, rerouted.reason)
        self.recoveries = self.recoveries.after(rerouted)

    def _heard(self, node_id: str, message: edge_pb2.LinkMessage) -> None:
        for number, happening in read_happenings(node_id, message):
            self._tell(number, happening)

    def _tell(self, number: int, happening: Happening) -> None:
        if runner := self._running.get(number):  # else it has ended, and this comes late
            runner.happened(happening)

    def _lost(self, node_id: str, reason: OsaiError) -> None:
        self._swarm.lost(node_id, time.monotonic())
        self._watch.start()
        for runner in self._running.values():
            runner.happened(lambda session, now_s: session.lost(node_id, reason, now_s))
