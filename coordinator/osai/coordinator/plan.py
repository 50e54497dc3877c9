"""What a generation request comes to on its model: token ids and bounds, checked. Pure.

A long prompt takes some tens of milliseconds to go through: not on the loop.
"""

from dataclasses import dataclass, replace
from typing import Literal

from osai.coordinator.api import EmbeddingRequest, GenerationRequest
from osai.core.errors import ContextExceededError, InvalidRequestError
from osai.core.grammar import Grammar
from osai.core.model import ModelFacts
from osai.core.prefix import shareable_hashes
from osai.core.sampling import SamplingParams

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256  # what is held back of the stream at most


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationPlan:
    """A request that can be run.

    Attributes:
        prompt: token ids, at least one.
        max_total_tokens: prompt and generated tokens together, within the model's context.
        stop_token_ids: end-of-sequence ids included, unless they are to be ignored.
        block_hashes: of the prompt (osai.core.prefix): stages that have the KV of its beginning need not compute it.
            The context bounds how many there are.
        operators: public keys of those whose nodes alone may serve it; empty: any may (docs/security.md, O5).
        prefix_salt: what the hashes begin with, empty for what all may share (O8).
        grammar: what the generated text must be.
        pooling: nothing is generated: how the prompt becomes a vector.
    """

    prompt: tuple[int, ...]
    max_total_tokens: int
    sampling: SamplingParams
    stop_token_ids: tuple[int, ...]
    stop: tuple[str, ...]
    block_hashes: tuple[bytes, ...] = ()
    operators: frozenset[bytes] = frozenset()
    prefix_salt: bytes = b""
    grammar: Grammar | None = None
    pooling: Literal["mean", "last"] | None = None

    @property
    def needs_history(self) -> bool:
        """Whether a tail that takes over needs to know which tokens were generated."""
        return self.sampling.needs_history or self.grammar is not None

    @property
    def needs_new_tail(self) -> bool:
        """Whether the tail must know of grammars, logit_bias and pooling."""
        return self.grammar is not None or self.pooling is not None or bool(self.sampling.logit_bias)


def plan_generation(
    request: GenerationRequest, prompt: tuple[int, ...], facts: ModelFacts, prefix_salt: bytes = b""
) -> GenerationPlan:
    """Check a request against its model.

    Args:
        request: as it came.
        prompt: its prompt's token ids.
        facts: of the model.
        prefix_salt: see GenerationPlan.

    Raises:
        InvalidRequestError: if it can't be run on any machine.
        ContextExceededError: if it would not fit in the model's context.
    """
    if not prompt:
        raise InvalidRequestError("the prompt is empty; give at least one token")
    for token in (*prompt, *request.stop_token_ids):
        if not 0 <= token < facts.vocab_size:
            raise InvalidRequestError(f"token id {token} is not in the model's vocabulary of {facts.vocab_size}")
    request.sampling.check_vocabulary(facts.vocab_size)
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InvalidRequestError(f"max_tokens is {request.max_tokens}; it must be at least 1")
    if len(request.stop) > MAX_STOP_STRINGS or any(not 0 < len(stop) <= MAX_STOP_CHARS for stop in request.stop):
        raise InvalidRequestError(
            f"at most {MAX_STOP_STRINGS} stop strings of 1 to {MAX_STOP_CHARS} characters are taken"
        )
    room = facts.max_context - len(prompt)
    if room < 1:
        raise ContextExceededError(
            f"the prompt has {len(prompt)} tokens; the model's context holds {facts.max_context}"
        )
    if request.max_tokens is not None and request.max_tokens > room:
        raise ContextExceededError(
            f"{len(prompt)} prompt tokens and max_tokens {request.max_tokens} exceed the context of "
            f"{facts.max_context}; ask for at most {room}"
        )
    eos = () if request.ignore_eos else facts.eos_token_ids
    return GenerationPlan(
        prompt=prompt,
        max_total_tokens=len(prompt) + (request.max_tokens or room),
        sampling=request.sampling,
        stop_token_ids=tuple(dict.fromkeys((*request.stop_token_ids, *eos))),
        stop=request.stop,
        block_hashes=shareable_hashes(prompt, prefix_salt),
        operators=request.trusted_operators,
        prefix_salt=prefix_salt,
        grammar=request.grammar,
    )


def plan_embedding(
    request: EmbeddingRequest, prompt: tuple[int, ...], facts: ModelFacts, prefix_salt: bytes = b""
) -> GenerationPlan:
    """Check a request for a vector against its model; arguments and errors as of plan_generation.

    KV is set aside for one token more, as for a generation of one: stages before the tail know no other sessions.
    """
    asked = GenerationRequest(
        model_id=request.model_id,
        prompt=prompt,
        sampling=SamplingParams(),
        max_tokens=1,
        ignore_eos=True,
        trusted_operators=request.trusted_operators,
    )
    plan = plan_generation(asked, prompt, facts, prefix_salt)
    # a mean is of all rows: none may be skipped because its KV is there
    hashes = plan.block_hashes if request.pooling == "last" else ()
    return replace(plan, pooling=request.pooling, block_hashes=hashes)
