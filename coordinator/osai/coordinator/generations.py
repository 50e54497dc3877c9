"""Runs generations: the shell around routing and session supervision, behind every front door."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from osai.coordinator.api import GenerationEvent, GenerationRequest, StageView, Started, SwarmView
from osai.coordinator.catalog import Catalog, ServedModel
from osai.coordinator.plan import GenerationPlan, plan_generation
from osai.coordinator.routing import Hop, route
from osai.coordinator.session import Emit, End, SendPrompt, Session, SupervisionConfig, TokenEvent
from osai.coordinator.session_runner import Happening, SessionRunner
from osai.coordinator.swarm import Swarm, gaps, replicas, serving
from osai.coordinator.transcript import Transcript
from osai.coordinator.wire import read_token, write_opens, write_prompt
from osai.core.errors import (
    AssignmentError,
    NotCoveredError,
    OsaiError,
    ResourceExhaustedError,
    UnavailableError,
    from_proto,
)
from osai.core.link_pool import LinkPool
from osai.proto import edge_pb2

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # pipelines tried until one opens: a record may outlive its node, or its KV, by some seconds
TRY_ELSEWHERE = (UnavailableError, ResourceExhaustedError, AssignmentError)  # one node's trouble, not the request's

Refusals = dict[str, OsaiError]  # node id -> why it could not open the session


class SwarmGenerations:
    """Implements osai.coordinator.api.Generations over a swarm. All of it runs on the loop.

    Args:
        view: gives the swarm as front doors show it.
    """

    def __init__(
        self,
        coordinator_id: str,
        catalog: Catalog,
        swarm: Swarm,
        view: Callable[[], SwarmView],
        config: SupervisionConfig | None = None,
    ) -> None:
        self._catalog = catalog
        self._swarm = swarm
        self._view = view
        self._config = config or SupervisionConfig()
        self._running: dict[int, SessionRunner] = {}
        self.links = LinkPool(coordinator_id, self._heard, self._lost)

    def swarm(self) -> SwarmView:
        """The swarm as it is now."""
        return self._view()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """See osai.coordinator.api.Generations."""
        started_s = time.monotonic()
        model = self._catalog.get(request.model_id)
        prompt = await asyncio.to_thread(model.encode, request.prompt)
        plan = plan_generation(request, prompt, model.facts)
        refusals: Refusals = {}
        while True:
            pipeline, begun = self._route(model, plan.max_total_tokens, refusals), False
            try:
                async with aclosing(self._attempt(model, plan, pipeline, started_s)) as events:
                    async for event in events:
                        begun = True
                        yield event
            except TRY_ELSEWHERE as e:
                known = any(stage.node_id == e.subject for stage in pipeline)
                if begun or not known or len(refusals) + 1 == MAX_ATTEMPTS:
                    raise
                log.warning("trying another pipeline: %s", e)
                refusals[e.subject] = e
            else:
                return

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
        return SessionRunner(number, session, self.links, opens, write_prompt(number, session.epoch, plan.prompt))

    def _route(self, model: ServedModel, num_tokens: int, refusals: Refusals) -> tuple[StageView, ...]:
        """The pipeline for a session of `num_tokens`, without the nodes that have refused it.

        Raises:
            NotCoveredError: if some layer has no ready node, or the spans do not join end to end.
            ResourceExhaustedError: if a pipeline exists, but has no KV left for so many tokens.
            OsaiError: the last refusal, where there is no way around the nodes that refused.
        """
        spans = [pair for pair in serving(self._swarm.nodes, model.model_id) if pair[0].node_id not in refusals]
        load = self._sessions_by_node()
        hops = [Hop.of(node, span, load.get(node.node_id, 0)) for node, span in spans
                if span.manifest_digest == model.manifest.digest]  # fmt: skip
        num_layers = model.facts.num_layers
        if pipeline := route(hops, num_layers, num_tokens):
            return pipeline
        if refusals:
            raise list(refusals.values())[-1]
        missing = gaps(replicas([hop.layers for hop in hops], num_layers))
        if missing:
            ranges = ", ".join(str(gap) for gap in missing)
            raise NotCoveredError(
                f"layers {ranges} of {model.model_id} have no ready node; try again when one has joined"
            )
        if route(hops, num_layers, 0):
            raise ResourceExhaustedError(
                f"no pipeline of {model.model_id} has KV for {num_tokens} tokens now; ask for fewer, or try again"
            )
        raise NotCoveredError(
            f"the spans of {model.model_id} do not join into a pipeline of one dtype; more nodes must join"
        )

    def _sessions_by_node(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for runner in self._running.values():
            for stage in runner.session.pipeline:
                counts[stage.node_id] = counts.get(stage.node_id, 0) + 1
        return counts

    def _heard(self, node_id: str, message: edge_pb2.LinkMessage) -> None:
        match message.WhichOneof("kind"):
            case "tokens":
                for token in message.tokens.tokens:
                    self._tell(token.session, _drawn(node_id, read_token(token)))
            case "opened":
                self._tell(message.opened.session, _opened(node_id, message.opened.epoch))
            case "failed":
                error = from_proto(message.failed.error)
                error.subject = error.subject or node_id
                self._tell(message.failed.session, _failed(node_id, message.failed.epoch, error))

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
    )


def _drawn(node_id: str, token: TokenEvent) -> Happening:
    return lambda session, now_s: session.token(node_id, token, now_s)


def _opened(node_id: str, epoch: int) -> Happening:
    return lambda session, now_s: session.opened(node_id, epoch, now_s)


def _failed(node_id: str, epoch: int, error: OsaiError) -> Happening:
    return lambda session, _: session.failed(node_id, epoch, error)
