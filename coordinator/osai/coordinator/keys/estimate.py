"""How many tokens a request will need, before it is tokenised. Pure."""

from osai.coordinator.api import EmbeddingRequest, GenerationRequest

CHARS_PER_TOKEN = 4  # of English; the true count is known once the generation starts, and is what is counted
TOKENS_PER_TURN = 4  # what a chat template puts around each
UNSTATED_TOKENS = 256  # set aside for a request that names no max_tokens; it gets more as long as there is more


def known_tokens(request: GenerationRequest) -> int:
    """Generated tokens that a resumed session has already. They count like a prompt: their KV may be computed again."""
    return len(request.resume.tokens) if request.resume else 0


def tokens_to_come(request: GenerationRequest) -> int:
    """Tokens to set aside for what is generated."""
    if request.max_tokens is None:
        return UNSTATED_TOKENS
    return max(0, request.max_tokens - known_tokens(request))


def estimated_tokens(request: GenerationRequest) -> int:
    """Tokens to set aside for a request, prompt and generated."""
    return _prompt_tokens(request) + known_tokens(request) + tokens_to_come(request)


def embedding_tokens(request: EmbeddingRequest) -> int:
    """Tokens to set aside for a prompt of which a vector is made."""
    return _prompt_tokens(request)


def _prompt_tokens(request: GenerationRequest | EmbeddingRequest) -> int:
    if isinstance(request.prompt, str):
        return _text_tokens(request.prompt)
    return sum(1 if isinstance(each, int) else _text_tokens(each.content) + TOKENS_PER_TURN for each in request.prompt)


def _text_tokens(text: str) -> int:
    return len(text) // CHARS_PER_TOKEN + 1
