"""The routes of OpenAI's API and the swarm's own."""

from fastapi import APIRouter, Request
from prometheus_client.exposition import choose_encoder
from starlette.responses import JSONResponse, PlainTextResponse, Response

from osai.coordinator.gateway import documented
from osai.coordinator.gateway.bodies import ChatBody, CompletionBody
from osai.coordinator.gateway.embeddings import EmbeddingBody, JsonWork, embed_all, embeddings_json
from osai.coordinator.gateway.endpoint import Endpoint
from osai.coordinator.gateway.errors import Json
from osai.coordinator.gateway.messages_answer import MessagesAnswer
from osai.coordinator.gateway.messages_body import MessagesBody
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.gateway.openai_answers import ChatAnswer, CompletionAnswer
from osai.coordinator.gateway.responses_answer import ResponsesAnswer
from osai.coordinator.gateway.responses_body import ResponsesBody
from osai.coordinator.gateway.swarm_json import model_json, swarm_json
from osai.coordinator.keys.api_key import Scope
from osai.core.errors import UnknownModelError


def openai_routes(endpoint: Endpoint) -> APIRouter:
    """`/v1`, as OpenAI's and Anthropic's clients speak it."""
    router = APIRouter(prefix="/v1", responses=documented.errors())
    _add_generating(router, endpoint)

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


def _add_generating(router: APIRouter, endpoint: Endpoint) -> None:
    @router.post("/chat/completions", responses=documented.answers(documented.CHAT))
    async def chat(http: Request, body: ChatBody) -> Response:
        return endpoint.respond(http, body, ChatAnswer)

    @router.post("/completions", responses=documented.answers(documented.COMPLETION))
    async def complete(http: Request, body: CompletionBody) -> Response:
        return endpoint.respond(http, body, CompletionAnswer)

    @router.post("/responses", responses=documented.answers(documented.RESPONSE))
    async def answer(http: Request, body: ResponsesBody) -> Response:
        echoed = body.echoed()
        return endpoint.respond(http, body, lambda header: ResponsesAnswer(header, echoed))

    @router.post("/messages", responses=documented.answers(documented.MESSAGE, anthropic=True))
    async def message(http: Request, body: MessagesBody) -> Response:
        return endpoint.respond(http, body, MessagesAnswer)

    @router.post("/embeddings", responses=documented.answers(documented.EMBEDDINGS, stream=False))
    async def embed(http: Request, body: EmbeddingBody) -> Response:
        generations = endpoint.caller(http).generations(endpoint.generations)

        async def work() -> Json:
            return embeddings_json(body, await embed_all(generations, body.requests()))

        return JsonWork(work)


def swarm_routes(endpoint: Endpoint, metrics: Metrics) -> APIRouter:
    """What operators and monitors ask."""
    router = APIRouter(responses=documented.errors())

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    router.add_api_route("/healthz", healthz, methods=["GET", "HEAD"], include_in_schema=False)

    @router.get("/api/v1/swarm")
    async def swarm(http: Request) -> Json:
        caller = endpoint.caller(http)
        caller.check(Scope.SWARM)
        return swarm_json(caller.generations(endpoint.generations).swarm())

    @router.get("/metrics", response_class=PlainTextResponse, responses=documented.METRICS)
    async def scrape(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), headers={"content-type": content_type})

    return router
