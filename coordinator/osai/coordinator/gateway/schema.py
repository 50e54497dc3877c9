"""What both generating endpoints take, and how it becomes a GenerationRequest. Pure."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from osai.coordinator.api import ChatMessage, GenerationRequest
from osai.coordinator.gateway.errors import ParameterError
from osai.coordinator.gateway.validation import (
    MAX_STOP_STRINGS,
    MAX_TOKEN_IDS,
    Neutral,
    drop_neutral,
    operator_keys,
    refused,
    stop_strings,
    token_ids,
    well_formed,
)
from osai.core.errors import InvalidRequestError
from osai.core.operators import MAX_TRUSTED
from osai.core.sampling import SamplingParams

IDS_SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}
TEXT_SCHEMA: dict[str, Any] = {"type": "string"}

Text = Annotated[str, AfterValidator(well_formed)]
TokenIds = Annotated[tuple[int, ...], BeforeValidator(token_ids), WithJsonSchema(IDS_SCHEMA)]
Stops = Annotated[
    tuple[str, ...],
    BeforeValidator(stop_strings),
    WithJsonSchema({"anyOf": [TEXT_SCHEMA, {"type": "array", "items": TEXT_SCHEMA, "maxItems": MAX_STOP_STRINGS}]}),
]
Operators = Annotated[
    frozenset[bytes],
    PlainValidator(operator_keys),
    WithJsonSchema({"type": "array", "items": TEXT_SCHEMA, "minItems": 1, "maxItems": MAX_TRUSTED}),
]


class Body(BaseModel):
    """A JSON object of a request: nothing unknown passes, nothing is coerced; null is the same as leaving out.

    Attributes:
        neutral: the parameters that are understood but not supported, each with the values that leave it off.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
    neutral: ClassVar[Neutral] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, body: object) -> object:
        return drop_neutral(body, known=cls.model_fields, neutral=cls.neutral)


class StreamOptions(Body):
    """`stream_options`."""

    neutral: ClassVar[Neutral] = {"include_obfuscation": [False]}
    include_usage: bool = False


class GenerationBody(Body, ABC):
    """What both endpoints take. The sampling parameters' bounds are SamplingParams' own.

    `user` and `metadata` are labels for OpenAI's own bookkeeping; they are accepted, and nothing is kept of them.
    """

    logprobs_name: ClassVar[str]  # the parameter that becomes SamplingParams.num_logprobs

    model: Text = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKEN_IDS)
    stop: Stops = ()
    temperature: float = 1.0  # OpenAI's default; osai's own is greedy
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    # osai's extensions, named as in other servers
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    ignore_eos: bool = False
    stop_token_ids: TokenIds = ()
    trusted_operators: Operators = frozenset()  # osai's own: public keys in hex, of whose nodes alone may serve it

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refused("only allowed when stream is true", step="stream_options")
        return self

    @abstractmethod
    def asked_prompt(self) -> str | tuple[int, ...] | tuple[ChatMessage, ...]:
        """The prompt in the coordinator's form."""

    @abstractmethod
    def asked_tokens(self) -> int | None:
        """The most tokens to generate; None for as many as the context holds."""

    @abstractmethod
    def asked_logprobs(self) -> int | None:
        """Alternatives to report for each token; None for no logprobs at all."""

    @property
    def include_usage(self) -> bool:
        """Whether a last chunk of the stream reports the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def generation(self, *, drawn_seed: int) -> GenerationRequest:
        """The request to the coordinator; `drawn_seed` serves where the client gave none.

        Raises:
            ParameterError: if a sampling parameter is out of its bounds.
        """
        return GenerationRequest(
            model_id=self.model,
            prompt=self.asked_prompt(),
            sampling=self._sampling(drawn_seed if self.seed is None else self.seed),
            max_tokens=self.asked_tokens(),
            stop=self.stop,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
            trusted_operators=self.trusted_operators,
        )

    def _sampling(self, seed: int) -> SamplingParams:
        values: dict[str, Any] = {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": seed,
            "num_logprobs": self.asked_logprobs(),
        }
        for name, value in values.items():  # one by one, so that the error can name its parameter
            try:
                SamplingParams(**{name: value})
            except InvalidRequestError as e:
                public = self.logprobs_name if name == "num_logprobs" else name
                raise ParameterError(e.message.replace(name, public), param=public) from e
        return SamplingParams(**values)
