"""One generation: its session from the first epoch to the end, and what its client is told of it."""

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager

from osai.coordinator.api import GenerationEvent, KnownToken, Rerouted, StageView, Started, Waiting
from osai.coordinator.catalog import ServedModel
from osai.coordinator.plan import GenerationPlan
from osai.coordinator.sessions.actions import Begin, Emit, End, FindPipeline, FindStandby, Found
from osai.coordinator.sessions.messages import SessionWriter
from osai.coordinator.sessions.route_finder import RouteFinder
from osai.coordinator.sessions.runner import SessionRunner
from osai.coordinator.sessions.session import Session
from osai.coordinator.sessions.stage_links import StageLinks
from osai.coordinator.transcript import Transcript
from osai.core.errors import NotCoveredError, OsaiError
from osai.proto import edge_pb2


class Generation:
    """Runs a session for a client. Implements osai.coordinator.sessions.surroundings.Surroundings.

    Args:
        model: of which it is.
        plan: what is generated.
        routes: finds pipelines for it.
        stages: take its messages.
        running: every session that runs here, by its number; this one is kept in it while it does.
        on_rerouted: called each time that it goes on over another pipeline.
    """

    def __init__(
        self,
        model: ServedModel,
        plan: GenerationPlan,
        *,
        routes: RouteFinder,
        stages: StageLinks,
        running: dict[int, SessionRunner],
        on_rerouted: Callable[[Rerouted], None],
    ) -> None:
        self.plan = plan
        self.routes = routes
        self._model = model
        self._stages = stages
        self._running = running
        self._on_rerouted = on_rerouted
        self._runner: SessionRunner | None = None

    async def run(
        self, session: Session, number: int, started_s: float, known: tuple[KnownToken, ...] = ()
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Run a session to its end; an error before the first event names the stage to avoid.

        Args:
            session: new, or resumed with `known`.
            number: under which it is known on the edges.
            started_s: when the request came.
            known: the tokens that the client has already.
        """
        transcript = Transcript(self._model.tokenizer, self.plan, started_s)
        transcript.replay(known)
        with self._runs(session, number, known) as runner:
            async with aclosing(self._tell(runner, transcript)) as events:
                async for event in events:
                    yield event

    async def embed(self, session: Session, number: int) -> AsyncGenerator[bytes | None, None]:
        """Run a session that makes a vector: None once it is open, then the vector. Errors as of `run`."""
        with self._runs(session, number) as runner:
            async with aclosing(runner.run()) as happenings:
                async for happening in happenings:
                    match happening:
                        case Begin():
                            yield None
                        case Emit():
                            yield happening.token.embedding
                        case End(error=OsaiError() as error):
                            raise error

    @contextmanager
    def _runs(self, session: Session, number: int, known: tuple[KnownToken, ...] = ()) -> Iterator[SessionRunner]:
        writer = SessionWriter(
            number=number, model_id=self._model.model_id, manifest_digest=self._model.manifest.digest, plan=self.plan
        )
        runner = SessionRunner(session, writer, self, (token.token_id for token in known))
        self._running[number] = self._runner = runner
        try:
            yield runner
        finally:
            self._forget(runner.number)

    async def _tell(self, runner: SessionRunner, transcript: Transcript) -> AsyncGenerator[GenerationEvent, None]:
        if transcript.reason is not None:  # what the client has is all there is
            yield self._started(runner)
            yield transcript.finished(transcript.reason)
            return
        async with aclosing(runner.run()) as happenings:
            async for happening in happenings:
                match happening:
                    case Begin():
                        yield self._started(runner)
                    case Emit():
                        chunk = transcript.add(happening.token, time.monotonic())
                        if transcript.stopped:
                            await happenings.aclose()  # before the client takes its time with the chunk
                            yield chunk
                            yield transcript.finished("stop", num_recoveries=runner.session.num_recoveries)
                            return
                        yield chunk
                    case Rerouted():
                        self._on_rerouted(happening)
                        yield happening
                    case Waiting():
                        yield happening
                    case End(error=None):
                        yield transcript.finished(happening.reason, num_recoveries=runner.session.num_recoveries)
                    case End(error=OsaiError() as error):
                        raise error

    def _started(self, runner: SessionRunner) -> Started:
        return Started(
            session_id=f"{runner.number:016x}",
            model_id=self._model.model_id,
            num_prompt_tokens=len(self.plan.prompt),
            seed=self.plan.sampling.seed,
            pipeline=runner.session.pipeline,
            num_cached_tokens=runner.session.num_cached_tokens,
        )

    def find_pipeline(self, action: FindPipeline) -> Found | NotCoveredError | None:
        """See Surroundings."""
        return self.routes.find(action)

    def find_standby(self, action: FindStandby) -> StageView | None:
        """See Surroundings."""
        return self.routes.standby(action)

    def send(self, stage: StageView, message: edge_pb2.LinkMessage) -> None:
        """See Surroundings."""
        self._stages.send(stage, message)

    def close(self, stage: StageView, message: edge_pb2.LinkMessage) -> None:
        """See Surroundings."""
        self._stages.close(stage, message)

    def renumber(self, number: int) -> int:
        """See Surroundings."""
        another = new_number()
        if runner := self._forget(number):
            self._running[another] = runner
        return another

    def _forget(self, number: int) -> SessionRunner | None:
        """Take this generation's runner off the list, unless its client has resumed the session by another call."""
        if self._runner is None or self._running.get(number) is not self._runner:
            return None
        return self._running.pop(number)


def new_number() -> int:
    """A number for a session, which no other has."""
    return secrets.randbits(64)
