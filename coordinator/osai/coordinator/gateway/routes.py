"""The routes of OpenAI's API and the swarm's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from osai.coordinator.api import Generations, ModelView, Started
from osai.coordinator.gateway.answers import Answer, AnswerHeader, ChatAnswer, CompletionAnswer
from osai.coordinator.gateway.bodies import ChatBody, CompletionBody
from osai.coordinator.gateway.delivery import GenerationResponse
from osai.coordinator.gateway.errors import Json
from osai.coordinator.gateway.limits import GatewayLimits
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.gateway.schema import GenerationBody
from osai.coordinator.gateway.swarm_json import model_json, swarm_json
from osai.coordinator.keys.api_key import Scope
from osai.coordinator.keys.caller import Caller, caller_of
from osai.coordinator.keys.keyring import Keyring
from osai.core.errors import UnknownModelError
from osai.core.protocol import software

_SEED_BITS = 53  # what every JSON reader keeps exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What generating endpoints are built from; randomness and wall clock come from outside."""

    generations: Generations
    random_bits: Callable[[int], int]
    wall_clock: Callable[[], float]
    limits: GatewayLimits
    keyring: Keyring | None = None

    def respond(self, http: Request, body: GenerationBody, shape: type[Answer]) -> Response:
        """The response that will run the generation."""
        generations = self.caller(http).generations(self.generations)
        request = body.generation(drawn_seed=self.random_bits(_SEED_BITS))
        header = AnswerHeader(
            answer_id=f"{self.random_bits(128):032x}",
            created_s=int(self.wall_clock()),
            software=software(),
            include_usage=body.include_usage,
            with_logprobs=request.sampling.num_logprobs is not None,
        )

        def answer_to(started: Started) -> Answer:
            return shape(header, started)

        return GenerationResponse(
            generations.generate(request),
            answer_to=answer_to,
            stream=body.stream,
            send_deadline_s=self.limits.send_deadline_s,
        )

    def caller(self, http: Request) -> Caller:
        """Who sends the request; raises UnauthenticatedError if it needs a key and has none."""
        return caller_of(self.keyring, http.headers.get("authorization"))

    def models(self, http: Request) -> Sequence[ModelView]:
        """The models that the sender may see."""
        caller = self.caller(http)
        caller.check(Scope.MODELS)
        return caller.generations(self.generations).swarm().models


def openai_routes(endpoint: Endpoint) -> APIRouter:
    """`/v1`, as OpenAI's clients speak it."""
    router = APIRouter(prefix="/v1")

    @router.post("/chat/completions")
    async def chat(http: Request, body: ChatBody) -> Response:
        return endpoint.respond(http, body, ChatAnswer)

    @router.post("/completions")
    async def complete(http: Request, body: CompletionBody) -> Response:
        return endpoint.respond(http, body, CompletionAnswer)

    @router.get("/models")
    async def models(http: Request) -> Json:
        return {"object": "list", "data": [model_json(model) for model in endpoint.models(http)]}

    @router.get("/models/{model_id:path}")
    async def model(http: Request, model_id: str) -> Json:
        for served in endpoint.models(http):
            if served.model_id == model_id:
                return model_json(served)
        raise UnknownModelError(f"no model {model_id!r} is served here; GET /v1/models lists those that are")

    return router


def swarm_routes(endpoint: Endpoint, metrics: Metrics) -> APIRouter:
    """What operators and monitors ask."""
    router = APIRouter()

    @router.get("/healthz")
    @router.head("/healthz", include_in_schema=False)
    async def healthz() -> Json:
        return {"status": "ok"}

    @router.get("/api/v1/swarm")
    async def swarm(http: Request) -> Json:
        caller = endpoint.caller(http)
        caller.check(Scope.SWARM)
        return swarm_json(caller.generations(endpoint.generations).swarm())

    @router.get("/metrics")
    async def scrape(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), headers={"content-type": content_type})

    return router
