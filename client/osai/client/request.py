"""A generation request as it crosses the wire. What its values mean, and whether they fit, the coordinator judges."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from osai.core.chat_turns import ChatMessage, Tool
from osai.core.errors import InvalidRequestError, ProtocolMismatchError
from osai.core.grammar import Grammar, write_grammar
from osai.core.protocol import PROTOCOL_VERSION
from osai.core.rpc import CLIENT_API_MAX_BYTES
from osai.proto import client_pb2, common_pb2

Prompt = str | Sequence[int] | Sequence[ChatMessage]

FEATURES_VERSION = 4  # of the protocol: coordinators of it know grammars, logit_bias, tools and embeddings

_INT64 = (-(2**63), 2**63 - 1)
_UINT64 = (0, 2**64 - 1)
_UINT32 = (0, 2**32 - 1)
_POOLINGS = {"mean": common_pb2.POOLING_MEAN, "last": common_pb2.POOLING_LAST}


class GenerationOptions(TypedDict, total=False):
    """What may be asked of a generation; whatever is left out or None, the coordinator chooses.

    Attributes:
        model_id: may be left out where the swarm serves exactly one model.
        max_tokens: at most so many; otherwise as many as the context holds.
        temperature: 0, the coordinator's default, takes the likeliest token.
        top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty: see osai.core.sampling.
        seed: the same seed gives the same tokens; otherwise the coordinator chooses one and tells it.
        num_logprobs: n for the token's own and those of the n likeliest; otherwise none.
        stop: strings that end the generation; the text ends before the first of them.
        stop_token_ids: tokens that end it, besides the model's own.
        ignore_eos: generate on past the model's end-of-sequence.
        trusted_only: public keys (32 bytes, or 64 hex digits) of operators: their nodes alone may serve the generation,
            or it fails. Outside a private swarm it goes on only by coordinators that the client was given; these see
            the prompt, and are trusted to keep to it. None: any node may serve it.
        grammar: what the text must be: a JSON schema, a regular expression, a context-free grammar.
        logit_bias: token id -> what is added to its logit, in [-100, 100].
        tools: what the model may call, for a chat; the calls are in the text, as the model writes them.
    """

    model_id: str
    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    num_logprobs: int | None
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    trusted_only: Sequence[str | bytes] | None
    grammar: Grammar | None
    logit_bias: Mapping[int, float] | None
    tools: Sequence[Tool] | None


def to_proto(prompt: Prompt, options: GenerationOptions) -> client_pb2.GenerateRequest:
    """The request on the wire.

    Raises:
        InvalidRequestError: if a value does not fit its wire type, or the request is over the message limit.
        TypeError: if an option has no such name.
    """
    unknown = options.keys() - GenerationOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"no such option of a generation: {', '.join(sorted(unknown))}")
    _check_wire_ranges(options)
    stop = options.get("stop", ())
    try:
        request = client_pb2.GenerateRequest(
            model_id=options.get("model_id", ""),
            sampling=client_pb2.SamplingRequest(
                temperature=options.get("temperature"),
                top_k=options.get("top_k"),
                top_p=options.get("top_p"),
                min_p=options.get("min_p"),
                repetition_penalty=options.get("repetition_penalty"),
                presence_penalty=options.get("presence_penalty"),
                frequency_penalty=options.get("frequency_penalty"),
                seed=options.get("seed"),
                num_logprobs=options.get("num_logprobs"),
            ),
            max_tokens=options.get("max_tokens"),
            stop=[stop] if isinstance(stop, str) else stop,  # a lone string would go as its characters
            stop_token_ids=options.get("stop_token_ids", ()),
            ignore_eos=options.get("ignore_eos", False),
            protocol_version=PROTOCOL_VERSION,
            trusted_operators=_operators(options.get("trusted_only")),
        )
        _set_prompt(request, prompt)
        _setfeatures_of(request, options)
    except (TypeError, ValueError) as e:  # protobuf: a value of another type, or text that is no Unicode
        raise InvalidRequestError(f"the request can't be written: {e}") from e
    _check_size(request)
    return request


def embed_to_proto(
    prompt: str | Sequence[int],
    model_id: str = "",
    pooling: Literal["mean", "last"] = "mean",
    trusted_only: Sequence[str | bytes] | None = None,
) -> client_pb2.EmbedRequest:
    """A request for a vector, on the wire.

    Raises:
        InvalidRequestError: if a value does not fit its wire type, or the request is over the message limit.
    """
    if pooling not in _POOLINGS:
        raise InvalidRequestError(f"pooling is {pooling!r}; it must be 'mean' or 'last'")
    try:
        request = client_pb2.EmbedRequest(
            model_id=model_id, pooling=_POOLINGS[pooling], trusted_operators=_operators(trusted_only)
        )
        if isinstance(prompt, str):
            request.prompt = prompt
        else:
            request.token_ids.CopyFrom(_token_ids(prompt))
    except (TypeError, ValueError) as e:
        raise InvalidRequestError(f"the request can't be written: {e}") from e
    _check_size(request)
    return request


def check_version(request: client_pb2.GenerateRequest | client_pb2.EmbedRequest, address: str, version: int) -> None:
    """See whether a coordinator knows all that a request asks for: an older one would leave it out in silence.

    Raises:
        ProtocolMismatchError: if it does not.
    """
    if version < FEATURES_VERSION and (asked := features_of(request)):
        raise ProtocolMismatchError(
            f"{address} speaks protocol {version} and knows no {' or '.join(asked)}: upgrade it, or ask without"
        )


def features_of(request: client_pb2.GenerateRequest | client_pb2.EmbedRequest) -> list[str]:
    """What of a request coordinators before FEATURES_VERSION do not know."""
    if isinstance(request, client_pb2.EmbedRequest):
        return ["embeddings"]
    turns = request.chat.messages
    asked = {
        "grammar": request.HasField("grammar"),
        "logit_bias": bool(request.sampling.logit_bias),
        "tools": bool(request.chat.tools) or any(turn.tool_calls or turn.tool_call_id or turn.name for turn in turns),
    }
    return [name for name, is_asked in asked.items() if is_asked]


def _setfeatures_of(request: client_pb2.GenerateRequest, options: GenerationOptions) -> None:
    if (grammar := options.get("grammar")) is not None:
        request.grammar.CopyFrom(write_grammar(grammar))
    for token_id, bias in (options.get("logit_bias") or {}).items():
        _check("biased token id", token_id, _UINT32)
        request.sampling.logit_bias[token_id] = bias
    tools = options.get("tools") or ()
    if tools and not request.HasField("chat"):
        raise InvalidRequestError("tools go with a chat: give the prompt as ChatMessages")
    for tool in tools:
        request.chat.tools.add(name=tool.name, description=tool.description, parameters=tool.parameters)


def _check_size(request: client_pb2.GenerateRequest | client_pb2.EmbedRequest) -> None:
    if request.ByteSize() > CLIENT_API_MAX_BYTES:
        raise InvalidRequestError(
            f"the request has {request.ByteSize()} bytes, the limit is {CLIENT_API_MAX_BYTES}: shorten the prompt"
        )


def _set_prompt(request: client_pb2.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.prompt = prompt
        return
    chat = [part for part in prompt if isinstance(part, ChatMessage)]
    token_ids = [part for part in prompt if isinstance(part, int) and not isinstance(part, bool)]
    if not prompt or len(prompt) not in {len(chat), len(token_ids)}:
        raise InvalidRequestError("a prompt is a text, or at least one token id, or at least one ChatMessage")
    if chat:
        request.chat.CopyFrom(client_pb2.Chat(messages=[_turn(turn) for turn in chat]))
    else:
        request.token_ids.CopyFrom(_token_ids(token_ids))


def _turn(turn: ChatMessage) -> client_pb2.ChatMessage:
    calls = [client_pb2.ToolCall(id=call.call_id, name=call.name, arguments=call.arguments) for call in turn.tool_calls]
    return client_pb2.ChatMessage(
        role=turn.role, content=turn.content, tool_calls=calls, tool_call_id=turn.tool_call_id, name=turn.name
    )


def _token_ids(token_ids: Sequence[int]) -> client_pb2.TokenIds:
    for token_id in token_ids:
        _check("token id", token_id, _UINT32)
    return client_pb2.TokenIds(ids=token_ids)


def _operators(keys: Sequence[str | bytes] | None) -> list[bytes]:
    """The operators' keys in order; an empty list is refused, or it would let every node in (O6)."""
    if keys is None:
        return []
    # it brings the cryptography library, which takes a tenth of a second: only for those who need it
    from osai.core.operators import trusted_operators, trusted_operators_of_hex  # noqa: PLC0415

    keys = [keys] if isinstance(keys, str | bytes) else keys
    if not keys:
        raise InvalidRequestError("trusted_only names no operator; name one at least, or leave it out")
    raw = trusted_operators(key for key in keys if isinstance(key, bytes))
    written = trusted_operators_of_hex(key for key in keys if not isinstance(key, bytes))
    return sorted(trusted_operators(raw | written))


def _check_wire_ranges(options: GenerationOptions) -> None:
    _check("max_tokens", options.get("max_tokens"), _INT64)
    _check("top_k", options.get("top_k"), _INT64)
    _check("num_logprobs", options.get("num_logprobs"), _INT64)
    _check("seed", options.get("seed"), _UINT64)
    for token_id in options.get("stop_token_ids", ()):
        _check("stop token id", token_id, _UINT32)


def _check(name: str, value: int | None, bounds: tuple[int, int]) -> None:
    low, high = bounds
    if value is not None and not low <= value <= high:
        raise InvalidRequestError(f"{name} is {value}; it must lie between {low} and {high}")
