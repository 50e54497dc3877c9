"""Sampling parameters: what they mean, their defaults and bounds. The arithmetic is the node's."""

from dataclasses import dataclass

from osai.core.errors import InvalidRequestError

MAX_LOGPROBS = 20  # as many alternatives as OpenAI's API gives
MAX_SEED = 2**64 - 1
MAX_BIAS = 100.0  # as in OpenAI's API
MAX_BIASED_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn from the logits; order of application as listed.

    Attributes:
        repetition_penalty: divides positive and multiplies negative logits of every token so far; 1 is off.
        presence_penalty: taken from the logit of each token already generated; in [-2, 2], 0 is off.
        frequency_penalty: taken once for each time the token was generated; in [-2, 2], 0 is off.
        temperature: divides the logits; 0, the default, takes the likeliest token (greedy).
        top_k: keeps the k likeliest tokens; 0 is off.
        top_p: keeps the smallest set of likeliest tokens whose probabilities reach p; 1 is off.
        min_p: keeps tokens at least this share of the likeliest one's probability; 0 is off.
        seed: with the position, decides each draw; the same seed gives the same tokens on any pipeline.
        logit_bias: (token id, what is added to its logit) before all else, in [-100, 100]; each id once.
        num_logprobs: None for no logprobs, n for the token's own and those of the n likeliest (before temperature).

    Raises:
        InvalidRequestError: if a value is out of its bounds.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    num_logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        bounds = (
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_k", self.top_k, 0, 2**31 - 1),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("seed", self.seed, 0, MAX_SEED),
            ("num_logprobs", self.num_logprobs or 0, 0, MAX_LOGPROBS),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:  # also catches NaN
                raise InvalidRequestError(f"{name} is {value}; it must lie between {low} and {high}")
        self._check_bias()
        if self.top_p == 0:
            raise InvalidRequestError("top_p is 0, which keeps no token; it must be above 0 and at most 1")

    def _check_bias(self) -> None:
        if len(self.logit_bias) > MAX_BIASED_TOKENS:
            raise InvalidRequestError(
                f"logit_bias names {len(self.logit_bias)} tokens; it may name at most {MAX_BIASED_TOKENS}"
            )
        if len({token_id for token_id, _ in self.logit_bias}) < len(self.logit_bias):
            raise InvalidRequestError("logit_bias names a token twice; name each once")
        for token_id, bias in self.logit_bias:
            if token_id < 0 or not -MAX_BIAS <= bias <= MAX_BIAS:  # also catches NaN
                raise InvalidRequestError(
                    f"logit_bias of token {token_id} is {bias}; ids start at 0, and biases lie between -100 and 100"
                )

    def check_vocabulary(self, vocab_size: int) -> None:
        """See whether every token that is named is one of the model's.

        Raises:
            InvalidRequestError: naming one that is not.
        """
        if wrong := [token_id for token_id, _ in self.logit_bias if token_id >= vocab_size]:
            raise InvalidRequestError(
                f"logit_bias names token {min(wrong)}, which is not in the model's vocabulary of {vocab_size}"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    @property
    def needs_history(self) -> bool:
        """Whether a penalty needs the tokens so far."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
