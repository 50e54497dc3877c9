"""What both generating endpoints take, and how it becomes a GenerationRequest. Pure."""

from abc import ABC, abstractmethod
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from osai.coordinator.api import ChatMessage, GenerationRequest
from osai.coordinator.gateway.asked import Asked, ToolUse
from osai.coordinator.gateway.errors import ParameterError
from osai.coordinator.gateway.validation import (
    MAX_STOP_STRINGS,
    Neutral,
    drop_neutral,
    operator_keys,
    stop_strings,
    token_ids,
    well_formed,
)
from osai.core.errors import InvalidRequestError
from osai.core.grammar import Grammar
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


def _as_it_is_read(document: dict[str, Any], kind: type[BaseModel]) -> None:
    """Complete a body's JSON schema: null is the same as leaving out, and neutral values are taken."""
    properties = document.setdefault("properties", {})
    required = document.get("required", ())
    for name, described in properties.items():
        if name not in required:
            outer = {key: described.pop(key) for key in ("default", "title") if key in described}
            options = described["anyOf"] if described.keys() == {"anyOf"} else [described]
            properties[name] = outer | {"anyOf": [*options, {"type": "null"}]}
    if issubclass(kind, Body):
        properties |= {name: {"enum": [*values, None]} for name, values in kind.neutral.items()}


class Body(BaseModel):
    """A JSON object of a request: nothing unknown passes, nothing is coerced; null is the same as leaving out.

    Attributes:
        neutral: the parameters that are understood but not supported, each with the values that leave it off.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, json_schema_extra=_as_it_is_read
    )
    neutral: ClassVar[Neutral] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, body: object) -> object:
        return drop_neutral(body, known=cls.known(), neutral=cls.neutral)

    @classmethod
    @cache
    def known(cls) -> frozenset[str]:
        """The parameters that are supported, by the names that clients know."""
        return frozenset(its.alias or name for name, its in cls.model_fields.items())


class GenerationBody(Body, ABC):
    """What every generating endpoint takes. The sampling parameters' bounds are SamplingParams' own."""

    logprobs_name: ClassVar[str]  # the parameter that becomes SamplingParams.num_logprobs

    model: Text = ""
    stream: bool = False
    temperature: float = 1.0  # OpenAI's and Anthropic's default; osai's own is greedy
    top_p: float = 1.0
    # osai's extensions, named as in other servers
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: TokenIds = ()
    trusted_operators: Operators = frozenset()  # osai's own: public keys in hex, of whose nodes alone may serve it

    @abstractmethod
    def asked_prompt(self) -> str | tuple[int, ...] | tuple[ChatMessage, ...]:
        """The prompt in the coordinator's form."""

    @abstractmethod
    def asked_tokens(self) -> int | None:
        """The most tokens to generate; None for as many as the context holds."""

    @abstractmethod
    def asked_logprobs(self) -> int | None:
        """Alternatives to report for each token; None for no logprobs at all."""

    def asked_stop(self) -> tuple[str, ...]:
        """Strings that end the generation."""
        return ()

    def asked_grammar(self) -> Grammar | None:
        """What the answer must be; None for any text. Raises ParameterError if that can't be asked for."""
        return None

    def asked_tools(self) -> ToolUse | None:
        """The tools that may be called; None if there are none. Raises ParameterError if they can't be."""
        return None

    def num_choices(self) -> int:
        """How many answers are generated."""
        return 1

    def with_usage(self) -> bool:
        """Whether a last chunk of the stream reports the usage, where the API leaves that to the client."""
        return False

    def asked(self, *, drawn_seed: int) -> Asked:
        """All that is asked for; `drawn_seed` serves where the client gave none.

        Raises:
            ParameterError: if a parameter is out of its bounds, or several don't go together.
        """
        return Asked(
            request=self.generation(drawn_seed=drawn_seed),
            num_choices=self.num_choices(),
            stream=self.stream,
            include_usage=self.with_usage(),
            tool_use=self.asked_tools(),
        )

    def generation(self, *, drawn_seed: int) -> GenerationRequest:
        """The request to the coordinator, its tools not among it.

        Raises:
            ParameterError: as of `asked`.
        """
        return GenerationRequest(
            model_id=self.model,
            prompt=self.asked_prompt(),
            sampling=self._sampling(drawn_seed if self.seed is None else self.seed),
            max_tokens=self.asked_tokens(),
            stop=self.asked_stop(),
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
            trusted_operators=self.trusted_operators,
            grammar=self.asked_grammar(),
        )

    def sampling_values(self, seed: int) -> dict[str, Any]:
        """Fields of SamplingParams."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "seed": seed,
            "num_logprobs": self.asked_logprobs(),
        }

    def _sampling(self, seed: int) -> SamplingParams:
        values = self.sampling_values(seed)
        for name, value in values.items():  # one by one, so that the error can name its parameter
            try:
                SamplingParams(**{name: value})
            except InvalidRequestError as e:
                public = self.logprobs_name if name == "num_logprobs" else name
                raise ParameterError(e.message.replace(name, public), param=public) from e
        return SamplingParams(**values)
