"""Between the client API's messages and osai.coordinator.api."""

from collections.abc import Callable
from dataclasses import replace

from osai.coordinator.api import (
    ChatMessage,
    Chunk,
    Finished,
    GeneratedToken,
    GenerationEvent,
    GenerationRequest,
    ModelView,
    NodeView,
    Started,
    SwarmView,
)
from osai.coordinator.wire import write_stage
from osai.core.errors import InvalidRequestError
from osai.core.sampling import SamplingParams
from osai.proto import client_pb2, common_pb2

_REASONS = {"stop": common_pb2.FINISH_REASON_STOP, "length": common_pb2.FINISH_REASON_LENGTH}


def read_request(message: client_pb2.GenerateRequest, draw_seed: Callable[[], int]) -> GenerationRequest:
    """Read a client's request; `draw_seed` gives the seed where it names none.

    Raises:
        InvalidRequestError: if it has no prompt, or a sampling parameter is out of its bounds.
    """
    given = {field.name: value for field, value in message.sampling.ListFields()}  # the fields that are set
    given.setdefault("seed", draw_seed())
    prompt: str | tuple[int, ...] | tuple[ChatMessage, ...]
    match message.WhichOneof("input"):
        case "prompt":
            prompt = message.prompt
        case "token_ids":
            prompt = tuple(message.token_ids.ids)
        case "chat":
            prompt = tuple(ChatMessage(role=turn.role, content=turn.content) for turn in message.chat.messages)
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
    )


def write_event(event: GenerationEvent) -> client_pb2.GenerateEvent:
    """One event of a generation."""
    match event:
        case Started():
            started = client_pb2.Started(
                session_id=event.session_id,
                model_id=event.model_id,
                num_prompt_tokens=event.num_prompt_tokens,
                seed=event.seed,
                pipeline=[write_stage(stage) for stage in event.pipeline],
                num_cached_tokens=event.num_cached_tokens,
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
            )
            return client_pb2.GenerateEvent(finished=finished)


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
    )
