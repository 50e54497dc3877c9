"""The coordinator as one key's holder may use it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from osai.coordinator.api import (
    Chunk,
    Embedding,
    EmbeddingRequest,
    GenerationEvent,
    GenerationRequest,
    Generations,
    Started,
    SwarmView,
)
from osai.coordinator.keys.api_key import ApiKey, Scope
from osai.coordinator.keys.estimate import embedding_tokens, estimated_tokens, known_tokens, tokens_to_come
from osai.coordinator.keys.keyring import Keyring
from osai.coordinator.keys.run import Run


class KeyedGenerations:
    """The coordinator behind a front door, for one key. A `Generations` itself.

    Args:
        inner: the coordinator.
        key: whoever asks.
        keyring: where it is from.
    """

    def __init__(self, inner: Generations, key: ApiKey, keyring: Keyring) -> None:
        self._inner = inner
        self._key = key
        self._keyring = keyring

    def swarm(self) -> SwarmView:
        """The swarm; of its models those that the key may use (A4)."""
        view = self._inner.swarm()
        return replace(view, models=tuple(model for model in view.models if self._key.may_use(model.model_id)))

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """As `Generations.generate`.

        Raises:
            ForbiddenError: if the key may not generate, or not with that model (A4).
            QuotaExceededError: if it has to wait, or has no tokens left to go on with (A5). After the first token that
                happens only where the request named no max_tokens.
            UnauthenticatedError: if it is revoked, or expires, meanwhile (A6).
            OsaiError: as of `Generations.generate`.
        """
        self._key.check_scope(Scope.GENERATE)
        asked = replace(request, model_id=self._model_id(request.model_id))
        if asked.model_id:
            self._key.check_model(asked.model_id)
        with self._keyring.running(self._key, estimated_tokens(asked)) as run:
            async with aclosing(self._inner.generate(asked)) as events:
                while (event := await run.within(lambda: anext(events, None))) is not None:
                    self._spend(run, event, asked)
                    yield event

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """As `Generations.embed`; it counts as a generation of no tokens.

        Raises:
            ForbiddenError: if the key may not generate, or not with that model (A4).
            QuotaExceededError: if it has to wait, or its prompt is longer than its quota has tokens left (A5).
            UnauthenticatedError: if it is revoked, or expires, meanwhile (A6).
            OsaiError: as of `Generations.embed`.
        """
        self._key.check_scope(Scope.GENERATE)
        asked = replace(request, model_id=self._model_id(request.model_id))
        if asked.model_id:
            self._key.check_model(asked.model_id)
        with self._keyring.running(self._key, embedding_tokens(asked)) as run:
            found = await run.within(lambda: self._inner.embed(asked))
            self._key.check_model(found.model_id)
            run.spend(found.num_prompt_tokens, keep=0)
            return found

    def _model_id(self, model_id: str) -> str:
        """The model that a request means; empty where it has to name one."""
        models = self._inner.swarm().models
        return model_id or (models[0].model_id if len(models) == 1 else "")

    def _spend(self, run: Run, event: GenerationEvent, request: GenerationRequest) -> None:
        match event:
            case Started():
                self._key.check_model(event.model_id)
                run.spend(event.num_prompt_tokens + known_tokens(request), keep=tokens_to_come(request))
            case Chunk() if event.tokens:
                run.spend(len(event.tokens))
