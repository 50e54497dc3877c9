"""A simulated client: it asks for one generation after the other, and compares each with an undisturbed run's."""

import asyncio
from dataclasses import dataclass, field
from random import Random

from scripts.simulation.client_calls import connections
from scripts.simulation.edge import address_of
from scripts.simulation.hosts import Host
from scripts.simulation.model import MODEL
from scripts.simulation.surroundings import Surroundings

from osai.client.events import Chunk, Finished, Rerouted, Stage, Started, Waiting
from osai.client.generation import GenerationRun
from osai.client.retries import Attempts, Retries, RetryBudget
from osai.client.roster import Roster
from osai.client.timeouts import Timeouts
from osai.core.errors import OsaiError
from osai.proto import client_pb2

PROMPT_TOKENS = (2, 40)
NEW_TOKENS = (6, 40)
ONCE = Retries(max_attempts=1)  # a request that is refused counts as refused


@dataclass(slots=True, eq=False)
class Request:
    """One generation, and what became of it.

    Attributes:
        due: its tokens in an undisturbed run.
        token_times_s: when each token came.
        pauses_s: of its reroutes, as clients are told.
        ended_s: when it was complete or ended by `error`; None while neither.
    """

    number: int
    client: str
    begun_s: float
    due: tuple[int, ...]
    got: list[int] = field(default_factory=list)
    token_times_s: list[float] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    waited_s: float = 0.0
    ended_s: float | None = None
    error: OsaiError | None = None


class SimulatedClient:
    """One client, which knows every coordinator that there was at the beginning.

    Args:
        host: its machine.
        around: network, model, log.
        coordinators: ids.
        dice: draws prompts and pauses.
        requests: takes down each request.
    """

    def __init__(
        self, host: Host, around: Surroundings, coordinators: tuple[str, ...], dice: Random, requests: list[Request]
    ) -> None:
        self._host = host
        self._around = around
        self._roster = Roster([address_of(each) for each in coordinators])
        self._dice = dice
        self._requests = requests

    async def run(self, *, until_s: float, think_s: float) -> None:
        """Ask again and again; the last one begins before `until_s`."""
        while True:
            await asyncio.sleep(self._dice.expovariate(1 / think_s))
            if self._around.loop.now >= until_s:
                return
            await self._ask()

    async def _ask(self) -> None:
        dice, config = self._dice, self._around.model.config
        prompt = tuple(dice.randrange(config.vocab_size) for _ in range(dice.randint(*PROMPT_TOKENS)))
        count, seed = dice.randint(*NEW_TOKENS), dice.getrandbits(60)
        message = client_pb2.GenerateRequest(
            model_id=MODEL,
            token_ids=client_pb2.TokenIds(ids=prompt),
            sampling=client_pb2.SamplingRequest(seed=seed, temperature=1.0),
            max_tokens=count,
            protocol_version=2,
        )
        request = Request(
            number=len(self._requests),
            client=self._host.id,
            begun_s=self._around.loop.now,
            due=self._around.model.tokens(prompt, seed, count),
        )
        self._requests.append(request)
        self._around.trace.note("ask", f"{request.number} {len(prompt)}+{count}")
        try:
            await self._follow(request, message)
        except OsaiError as e:
            request.error = e
            self._around.trace.note("failed", f"{request.number} {type(e).__name__}: {e.message}")
        request.ended_s = self._around.loop.now

    async def _follow(self, request: Request, message: client_pb2.GenerateRequest) -> None:
        attempts = Attempts(ONCE, RetryBudget(ONCE), self._dice.random, self._around.loop.now)
        links = connections(self._around.network, self._host)
        run = GenerationRun(links, self._roster, message, Timeouts(), attempts, self._dice.random)
        trace, name = self._around.trace, str(request.number)
        async for event in run.events():
            now_s = self._around.loop.now
            match event:
                case Started():
                    trace.note("started", f"{name} {_text(event.pipeline)}")
                case Chunk():
                    request.got += [token.token_id for token in event.tokens]
                    request.token_times_s += [now_s] * len(event.tokens)
                    trace.note("token", f"{name} {event.index} {event.tokens[0].token_id}")
                case Rerouted():
                    request.pauses_s.append(event.pause_s)
                    request.reasons.append(event.reason)
                    trace.note("rerouted", f"{name} {event.pause_s:.3f} {_text(event.pipeline)} {event.reason}")
                case Waiting():
                    request.waited_s = max(request.waited_s, event.remaining_s)
                    trace.note("waiting", f"{name} {event.remaining_s:.1f} {event.reason}")
                case Finished():
                    trace.note("finished", f"{name} {event.num_recoveries}")


def _text(pipeline: tuple[Stage, ...]) -> str:
    return " ".join(f"{stage.node_id}[{stage.span}]" for stage in pipeline)
