"""What every endpoint is built from, and how one answers a request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fastapi import Request
from starlette.responses import Response

from osai.coordinator.api import GenerationRequest, Generations, ModelView
from osai.coordinator.gateway.answers import Answer, AnswerHeader
from osai.coordinator.gateway.asked import Asked
from osai.coordinator.gateway.delivery import GenerationResponse
from osai.coordinator.gateway.key_check import authorization_of
from osai.coordinator.gateway.limits import GatewayLimits
from osai.coordinator.gateway.schema import GenerationBody
from osai.coordinator.gateway.tooling import ToolStyles, with_tools
from osai.coordinator.keys.api_key import Scope
from osai.coordinator.keys.caller import Caller, caller_of
from osai.coordinator.keys.keyring import Keyring
from osai.core.protocol import software
from osai.core.sampling import MAX_SEED

_SEED_BITS = 53  # what every JSON reader keeps exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What generating endpoints are built from; randomness and wall clock come from outside."""

    generations: Generations
    random_bits: Callable[[int], int]
    wall_clock: Callable[[], float]
    limits: GatewayLimits
    styles: ToolStyles
    keyring: Keyring | None = None

    def respond(self, http: Request, body: GenerationBody, shape: Callable[[AnswerHeader], Answer]) -> Response:
        """The response that will run the generations.

        Raises:
            ParameterError: if the body's parameters are wrong, or do not go together.
            UnauthenticatedError: if a key is needed, and there is none.
        """
        generations = self.caller(http).generations(self.generations)
        asked = body.asked(drawn_seed=self.random_bits(_SEED_BITS))
        request, calls = with_tools(asked, self.styles)
        header = AnswerHeader(
            answer_id=self.new_id(),
            created_s=int(self.wall_clock()),
            software=software(),
            num_choices=asked.num_choices,
            include_usage=asked.include_usage,
            with_logprobs=asked.with_logprobs,
            new_parser=calls.parser if calls else None,
            new_call_id=(lambda: calls.format.call_id(self.random_bits)) if calls else str,
            new_id=self.new_id,
        )
        return GenerationResponse(
            [generations.generate(each) for each in _choices(request, asked)],
            answer=shape(header),
            stream=asked.stream,
            send_deadline_s=self.limits.send_deadline_s,
        )

    def new_id(self) -> str:
        """32 random hex digits."""
        return f"{self.random_bits(128):032x}"

    def caller(self, http: Request) -> Caller:
        """Who sends the request; raises UnauthenticatedError if it needs a key and has none."""
        return caller_of(self.keyring, authorization_of(http.headers))

    def models(self, http: Request) -> Sequence[ModelView]:
        """The models that the sender may see."""
        caller = self.caller(http)
        caller.check(Scope.MODELS)
        return caller.generations(self.generations).swarm().models


def _choices(request: GenerationRequest, asked: Asked) -> list[GenerationRequest]:
    """One request a choice, their seeds in a row."""
    seed = request.sampling.seed
    seeds = [(seed + i) % (MAX_SEED + 1) for i in range(asked.num_choices)]
    return [request, *(replace(request, sampling=replace(request.sampling, seed=each)) for each in seeds[1:])]
