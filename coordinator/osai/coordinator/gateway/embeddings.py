"""POST /v1/embeddings."""

import asyncio
import base64
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator, WithJsonSchema
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from osai.coordinator.api import Embedding, EmbeddingRequest, Generations
from osai.coordinator.gateway.delivery import STOPPING, cancel_when_gone
from osai.coordinator.gateway.error_response import error_response
from osai.coordinator.gateway.errors import Json
from osai.coordinator.gateway.schema import IDS_SCHEMA, TEXT_SCHEMA, Body, Operators, Text
from osai.coordinator.gateway.validation import Neutral, refused, token_ids, well_formed
from osai.core.errors import OsaiError, UnavailableError

MAX_INPUTS = 2048  # of one request, as OpenAI's
NUM_AT_ONCE = 8  # prompts under way of one request: the others of the swarm's clients go on
Input = str | tuple[int, ...]


def _inputs(value: object) -> tuple[Input, ...]:
    """`input`: a string, token ids, or a list of either."""
    whole = value if isinstance(value, list) and value and isinstance(value[0], str | list) else [value]
    if len(whole) > MAX_INPUTS:
        raise refused(f"has {len(whole)} inputs; at most {MAX_INPUTS} are allowed")
    found: list[Input] = []
    for index, one in enumerate(whole):
        step = f"[{index}]" if whole is value else ""
        if isinstance(one, str) and one:
            found.append(well_formed(one))
        elif isinstance(one, list) and one:
            ids = token_ids(one)
            found.append(ids if isinstance(ids, tuple) else ())
        else:
            raise refused("must be a non-empty string, a list of token ids, or a list of either", step=step)
    return tuple(found)


_ONE = [TEXT_SCHEMA, {**IDS_SCHEMA, "minItems": 1}]
_MANY = {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": {"anyOf": _ONE}}


class EmbeddingBody(Body):
    """The body. `user` is a label for OpenAI's own bookkeeping; it is accepted, and not kept."""

    # A vector that is cut has no meaning here: these models were not trained to have their beginnings used alone.
    neutral: ClassVar[Neutral] = {"dimensions": []}
    model: Text = ""
    input: Annotated[tuple[Input, ...], PlainValidator(_inputs), WithJsonSchema({"anyOf": [*_ONE, _MANY]})]
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
    pooling: Literal["mean", "last"] = Field(default="mean")  # osai's own
    trusted_operators: Operators = frozenset()

    def requests(self) -> list[EmbeddingRequest]:
        """One request an input."""
        return [
            EmbeddingRequest(
                model_id=self.model, prompt=one, pooling=self.pooling, trusted_operators=self.trusted_operators
            )
            for one in self.input
        ]


async def embed_all(generations: Generations, requests: Sequence[EmbeddingRequest]) -> list[Embedding]:
    """The vectors of all requests, in their order, some at once; the first error ends all."""
    places = asyncio.Semaphore(NUM_AT_ONCE)

    async def embed(request: EmbeddingRequest) -> Embedding:
        async with places:
            return await generations.embed(request)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(embed(request)) for request in requests]
    except* OsaiError as errors:
        raise _first(errors) from errors
    return [task.result() for task in tasks]


def _first(group: BaseExceptionGroup[OsaiError]) -> OsaiError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def embeddings_json(body: EmbeddingBody, found: Sequence[Embedding]) -> Json:
    """OpenAI's answer; `osai` tells how the vectors were made."""
    num_tokens = sum(one.num_prompt_tokens for one in found)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _written(one.vector, body.encoding_format)}
            for index, one in enumerate(found)
        ],
        "model": found[0].model_id,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        "osai": {"pooling": body.pooling, "of": "last hidden state", "normalised": True},
    }


def _written(vector: Sequence[float], encoding: Literal["float", "base64"]) -> list[float] | str:
    if encoding == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


class JsonWork(Response):
    """A response whose JSON takes a while to make; a client that goes away ends that."""

    def __init__(self, work: Callable[[], Coroutine[None, None, Json]]) -> None:
        super().__init__()
        self._work = work
        self._ending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the work, and send what comes of it."""
        try:
            async with asyncio.TaskGroup() as group:
                delivery = group.create_task(self._deliver(scope, receive, send))
                watch = group.create_task(cancel_when_gone(receive, delivery))
                delivery.add_done_callback(lambda _: watch.cancel())
        except asyncio.CancelledError:  # the server stops
            if not self._ending:
                await error_response(UnavailableError(STOPPING))(scope, receive, send)
            raise

    async def _deliver(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response
        try:
            response = JSONResponse(await self._work())
        except OsaiError as e:
            response = error_response(e)
        self._ending = True
        await response(scope, receive, send)
