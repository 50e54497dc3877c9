"""Grammars of sessions that end here: compiled off the loop, with the tokenizer of the model."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from osai.core.errors import DeadlineExceededError, InvalidRequestError, OsaiError
from osai.core.grammar import Grammar
from osai.core.vocabulary import Vocabulary
from osai.node.engine.constraint import Constraint
from osai.node.stages.stage import OpenRequest

log = logging.getLogger(__name__)

COMPILE_S = 8.0  # for one grammar, the tokenizer included: less than a coordinator waits for a stage to open
NUM_WORKERS = 2  # masks of a step are made side by side with its forward, which has the other cores

MakeVocabulary = Callable[[], Vocabulary]


class Grammars:
    """Makes the constraints of sessions. All of it runs on the loop; the work is done by threads of its own."""

    def __init__(self) -> None:
        self._makers: dict[str, MakeVocabulary] = {}
        self._vocabularies: dict[str, asyncio.Future[Vocabulary]] = {}
        self._workers = ThreadPoolExecutor(NUM_WORKERS, thread_name_prefix="osai-grammar")

    def serve(self, model_id: str, maker: MakeVocabulary | None) -> None:
        """Take grammars for a model; `maker` is called in a thread, once, when the first one comes. None: take none."""
        self.withdraw(model_id)
        if maker is not None:
            self._makers[model_id] = maker

    def withdraw(self, model_id: str) -> None:
        """Take none any more."""
        self._makers.pop(model_id, None)
        self._vocabularies.pop(model_id, None)

    async def constraint(self, request: OpenRequest) -> Constraint | None:
        """What a session's tokens must be; None where they may be any, or are not drawn here.

        Raises:
            InvalidRequestError: if the grammar can't be used, or the tokens so far do not fit; it quotes the library.
            WeightsError: if the model's tokenizer can't be.
            DeadlineExceededError: if it takes too long.
        """
        grammar = request.grammar
        if grammar is None or request.follow:
            return None
        if request.model_id not in self._makers:
            raise InvalidRequestError(
                f"this node takes no grammar for {request.model_id}: it is not the tail, or has no tokenizer"
            )
        if len(request.prompt_token_ids) < request.num_known:
            raise InvalidRequestError(
                f"a grammar needs the {request.num_known} tokens that are known, prompt_token_ids has "
                f"{len(request.prompt_token_ids)}"
            )
        try:
            async with asyncio.timeout(COMPILE_S):
                vocabulary = await self._vocabulary(request.model_id)
                loop = asyncio.get_running_loop()
                constraint = await loop.run_in_executor(self._workers, self._compiled, vocabulary, grammar, request)
                await asyncio.wrap_future(constraint.prepare(request.num_known - request.num_prompt_tokens))
                return constraint
        except TimeoutError as e:
            raise DeadlineExceededError(f"the grammar was not compiled within {COMPILE_S:g} s; simplify it") from e

    def close(self) -> None:
        """Let the threads go."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _vocabulary(self, model_id: str) -> Vocabulary:
        made = self._vocabularies.get(model_id)
        if made is None:
            made = asyncio.get_running_loop().run_in_executor(self._workers, self._makers[model_id])
            self._vocabularies[model_id] = made
        try:
            return await asyncio.shield(made)  # others wait for it too
        except OsaiError:
            self._vocabularies.pop(model_id, None)
            raise

    def _compiled(self, vocabulary: Vocabulary, grammar: Grammar, request: OpenRequest) -> Constraint:
        """In a worker."""
        return Constraint(
            vocabulary.matcher(grammar),
            grammar.kind,
            self._workers,
            unwanted=sorted(vocabulary.eos_token_ids - request.stop_token_ids),
            generated=request.prompt_token_ids[request.num_prompt_tokens : request.num_known],
        )
