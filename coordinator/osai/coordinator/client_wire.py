"""Between the client API's messages and osai.coordinator.api."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from osai.coordinator.api import (
    ChatMessage,
    Chunk,
    Embedding,
    EmbeddingRequest,
    Finished,
    GeneratedToken,
    GenerationEvent,
    GenerationRequest,
    ModelView,
    NodeView,
    Rerouted,
    Started,
    SwarmView,
    Tool,
    ToolCall,
    Waiting,
)
from osai.coordinator.resume_wire import MAX_NAME_CHARS, read_resume
from osai.coordinator.wire import write_stage
from osai.core.errors import InvalidRequestError
from osai.core.grammar import read_grammar
from osai.core.operators import trusted_operators
from osai.core.sampling import MAX_BIASED_TOKENS, SamplingParams
from osai.proto import client_pb2, common_pb2

_REASONS = {"stop": common_pb2.FINISH_REASON_STOP, "length": common_pb2.FINISH_REASON_LENGTH}

MAX_PROMPT_TOKENS = 2**20  # given as ids; of more a request has no room
MAX_CHAT_MESSAGES = 16_384
MAX_TOOLS = 1024
MAX_TOOL_CALLS = 1024  # of one turn
MAX_STOPS = 4096  # strings or tokens that end a generation, before it is known how many the model takes

_POOLINGS: Mapping[int, Literal["mean", "last"]] = MappingProxyType(
    {common_pb2.POOLING_UNSPECIFIED: "mean", common_pb2.POOLING_MEAN: "mean", common_pb2.POOLING_LAST: "last"}
)
NO_CONTEXTS: Mapping[str, int] = MappingProxyType({})


def read_request(
    message: client_pb2.GenerateRequest, draw_seed: Callable[[], int], contexts: Mapping[str, int] = NO_CONTEXTS
) -> GenerationRequest:
    """Read a client's request.

    Args:
        message: as it came.
        draw_seed: gives the seed where it names none.
        contexts: tokens that each model's context holds; they bound what may be resumed.

    Raises:
        InvalidRequestError: if it has no prompt, or too much of anything, a sampling parameter is out of its bounds, an
            operator's key is none, or what it resumes is no session's.
        ContextExceededError: if it resumes with more tokens than the generation may have.
    """
    _check_counts(message)
    given = {field.name: value for field, value in message.sampling.ListFields()}  # the fields that are set
    given["logit_bias"] = tuple(sorted(message.sampling.logit_bias.items()))
    resume = read_resume(message.resume, _most_tokens(message, contexts)) if message.HasField("resume") else None
    seed = given.setdefault("seed", message.resume.seed if resume else draw_seed())
    if resume and seed != message.resume.seed:
        raise InvalidRequestError(f"the seed is {seed}, the session's is {message.resume.seed}: ask as at the start")
    prompt: str | tuple[int, ...] | tuple[ChatMessage, ...]
    match message.WhichOneof("input"):
        case "prompt":
            prompt = message.prompt
        case "token_ids":
            prompt = tuple(message.token_ids.ids)
        case "chat":
            prompt = tuple(_read_turn(turn) for turn in message.chat.messages)
        case _:
            raise InvalidRequestError("the request has no prompt; give a text, token ids or a chat")
    return GenerationRequest(
        model_id=message.model_id,
        prompt=prompt,
        sampling=replace(SamplingParams(), **given),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        trusted_operators=trusted_operators(message.trusted_operators),
        tools=tuple(
            Tool(name=tool.name, description=tool.description, parameters=tool.parameters)
            for tool in message.chat.tools
        ),
        grammar=read_grammar(message.grammar) if message.HasField("grammar") else None,
        resume=resume,
    )


def _read_turn(turn: client_pb2.ChatMessage) -> ChatMessage:
    if len(turn.tool_calls) > MAX_TOOL_CALLS:
        raise InvalidRequestError(f"{len(turn.tool_calls)} tool calls of a turn are over the limit of {MAX_TOOL_CALLS}")
    calls = (ToolCall(call_id=call.id, name=call.name, arguments=call.arguments) for call in turn.tool_calls)
    return ChatMessage(
        role=turn.role,
        content=turn.content,
        tool_calls=tuple(calls),
        tool_call_id=turn.tool_call_id,
        name=turn.name,
    )


def read_embedding_request(message: client_pb2.EmbedRequest) -> EmbeddingRequest:
    """Read a client's request for a vector.

    Raises:
        InvalidRequestError: if it has no prompt, or too much of anything, or names a pooling that is not known here.
    """
    _refuse_many(
        ("characters of a model's id", len(message.model_id), MAX_NAME_CHARS),
        ("prompt tokens", len(message.token_ids.ids), MAX_PROMPT_TOKENS),
    )
    if not message.WhichOneof("input"):
        raise InvalidRequestError("the request has no prompt; give a text or token ids")
    if message.pooling not in _POOLINGS:
        raise InvalidRequestError(
            f"pooling {message.pooling} is not known to this release; ask for the mean or the last"
        )
    return EmbeddingRequest(
        model_id=message.model_id,
        prompt=message.prompt if message.HasField("prompt") else tuple(message.token_ids.ids),
        pooling=_POOLINGS[message.pooling],
        trusted_operators=trusted_operators(message.trusted_operators),
    )


def write_embedding(embedding: Embedding) -> client_pb2.EmbedResponse:
    """A vector."""
    return client_pb2.EmbedResponse(
        model_id=embedding.model_id, num_prompt_tokens=embedding.num_prompt_tokens, embedding=embedding.vector
    )


def _check_counts(message: client_pb2.GenerateRequest) -> None:
    """Before anything of a request is copied (B2 of docs/security.md)."""
    _refuse_many(
        ("characters of a model's id", len(message.model_id), MAX_NAME_CHARS),
        ("prompt tokens", len(message.token_ids.ids), MAX_PROMPT_TOKENS),
        ("chat messages", len(message.chat.messages), MAX_CHAT_MESSAGES),
        ("stop strings", len(message.stop), MAX_STOPS),
        ("stop tokens", len(message.stop_token_ids), MAX_STOPS),
        ("tools", len(message.chat.tools), MAX_TOOLS),
        ("biased tokens", len(message.sampling.logit_bias), MAX_BIASED_TOKENS),
    )


def _refuse_many(*counts: tuple[str, int, int]) -> None:
    for what, count, most in counts:
        if count > most:
            raise InvalidRequestError(f"{count} {what} are over the limit of {most}")


def _most_tokens(message: client_pb2.GenerateRequest, contexts: Mapping[str, int]) -> int | None:
    """How many generated tokens the request allows at most, as far as it is known without its prompt's length."""
    context = contexts.get(message.model_id) if message.model_id else max(contexts.values(), default=None)
    limits = [message.max_tokens] if message.HasField("max_tokens") else []
    limits += [] if context is None else [context - 1]  # of the prompt, one token at least
    return min(limits, default=None)


def write_event(event: GenerationEvent, coordinators: Sequence[str] = ()) -> client_pb2.GenerateEvent:
    """One event of a generation; `coordinators` are named in Started."""
    match event:
        case Started():
            started = client_pb2.Started(
                session_id=event.session_id,
                model_id=event.model_id,
                num_prompt_tokens=event.num_prompt_tokens,
                seed=event.seed,
                pipeline=[write_stage(stage) for stage in event.pipeline],
                num_cached_tokens=event.num_cached_tokens,
                coordinators=coordinators,
            )
            return client_pb2.GenerateEvent(started=started)
        case Chunk():
            tokens = [_write_token(token) for token in event.tokens]
            return client_pb2.GenerateEvent(chunk=client_pb2.Chunk(index=event.index, tokens=tokens, text=event.text))
        case Finished():
            finished = client_pb2.Finished(
                reason=_REASONS[event.reason],
                num_prompt_tokens=event.num_prompt_tokens,
                num_generated_tokens=event.num_generated_tokens,
                ttft_s=event.ttft_s,
                decode_tokens_per_s=event.decode_tokens_per_s,
                num_recoveries=event.num_recoveries,
            )
            return client_pb2.GenerateEvent(finished=finished)
        case Rerouted():
            rerouted = client_pb2.Rerouted(
                pipeline=[write_stage(stage) for stage in event.pipeline], reason=event.reason, pause_s=event.pause_s
            )
            return client_pb2.GenerateEvent(rerouted=rerouted)
        case Waiting():
            waiting = client_pb2.Waiting(reason=event.reason, remaining_s=event.remaining_s)
            return client_pb2.GenerateEvent(waiting=waiting)


def _write_token(token: GeneratedToken) -> common_pb2.SampledToken:
    top = [common_pb2.TokenLogprob(token_id=other, logprob=logprob) for other, _, logprob in token.top]
    return common_pb2.SampledToken(token_id=token.token_id, logprob=token.logprob, top=top)


def write_models(models: tuple[ModelView, ...]) -> list[client_pb2.ModelInfo]:
    """The models that are served."""
    return [
        client_pb2.ModelInfo(
            model_id=model.model_id,
            num_layers=model.num_layers,
            max_context=model.max_context,
            covered=model.covered,
            signed=model.signed,
            licence=model.licence,
            replicas=model.replicas,
            missing=model.missing,
        )
        for model in models
    ]


def write_swarm(view: SwarmView) -> client_pb2.GetSwarmResponse:
    """The swarm as it is now."""
    return client_pb2.GetSwarmResponse(
        coordinator_id=view.coordinator_id,
        software=view.software,
        http_address=view.http_address,
        models=write_models(view.models),
        nodes=[_write_node(node) for node in view.nodes],
        dht_addresses=view.dht_addresses,
        coordinators=view.coordinators,
    )


def _write_node(node: NodeView) -> client_pb2.NodeStatus:
    return client_pb2.NodeStatus(
        node_id=node.node_id,
        name=node.name,
        software=node.software,
        device=node.device,
        memory_bytes=node.memory_bytes,
        state=node.state,
        spans=[
            client_pb2.NodeSpan(
                model_id=span.model_id,
                span=common_pb2.LayerRange(start=span.span.start, end=span.span.end),
                dtype=span.dtype,
                state=span.state,
                verified=span.verified,
                failure=span.failure,
            )
            for span in node.spans
        ],
        num_sessions=node.num_sessions,
        uptime_s=node.uptime_s,
        operator=bytes.fromhex(node.operator),
    )
