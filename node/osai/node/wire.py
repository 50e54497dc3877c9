"""Between the wire's messages and the node's own data: protobuf stays here, at the edge.

The B numbers are clauses of docs/security.md.
"""

from collections.abc import Sequence

import torch

from osai.core.errors import InvalidRequestError, OsaiError
from osai.core.grammar import Grammar, read_grammar
from osai.core.layers import LayerRange
from osai.core.prefix import HASH_BYTES, num_shareable_blocks
from osai.core.sampling import MAX_BIASED_TOKENS, SamplingParams
from osai.node.engine.api import Rows, Sampled
from osai.node.engine.pooling import Pooling
from osai.node.stages.stage import FollowRequest, OpenRequest, Peer, Report, ResumeRequest
from osai.proto import common_pb2, edge_pb2

WIRE_DTYPES: dict[torch.dtype, common_pb2.DType.ValueType] = {
    torch.float32: common_pb2.DTYPE_FLOAT32,
    torch.bfloat16: common_pb2.DTYPE_BFLOAT16,
    torch.float16: common_pb2.DTYPE_FLOAT16,
    torch.int32: common_pb2.DTYPE_INT32,
}
TORCH_DTYPES = {wire: dtype for dtype, wire in WIRE_DTYPES.items()}

MAX_NAME_CHARS = 255  # of a model's or peer's id, or an address
MAX_DIGEST_BYTES = 64
MAX_TOTAL_TOKENS = 2**24  # of a session, whatever KV there may be: no model's context is as long
MAX_STOP_TOKENS = 4096

_FINISH = {
    None: common_pb2.FINISH_REASON_UNSPECIFIED,
    "stop": common_pb2.FINISH_REASON_STOP,
    "length": common_pb2.FINISH_REASON_LENGTH,
}


_POOLINGS: dict[int, Pooling] = {common_pb2.POOLING_MEAN: "mean", common_pb2.POOLING_LAST: "last"}


def read_open(message: edge_pb2.OpenSession) -> OpenRequest:
    """Read a coordinator's OpenSession.

    Raises:
        InvalidRequestError: if a number in it is out of bounds, or something in it is too long (B2).
    """
    _check_sizes(message)
    if not 0 < message.num_prompt_tokens <= message.max_total_tokens:
        raise InvalidRequestError(
            f"a session of {message.num_prompt_tokens} prompt tokens and {message.max_total_tokens} in all can't be run"
        )
    num_known = message.num_known_tokens or message.num_prompt_tokens
    if not message.num_prompt_tokens <= num_known <= message.max_total_tokens:
        raise InvalidRequestError(
            f"a session of {message.num_prompt_tokens} prompt tokens and {message.max_total_tokens} in all can't go on "
            f"from {num_known} that are known"
        )
    return OpenRequest(
        session=message.session,
        epoch=message.epoch,
        model_id=message.model_id,
        layers=LayerRange(message.span.start, message.span.end),
        manifest_digest=message.manifest_digest,
        successor=read_peer(message.successor),
        num_prompt_tokens=message.num_prompt_tokens,
        max_total_tokens=message.max_total_tokens,
        sampling=read_sampling(message.sampling),
        stop_token_ids=frozenset(message.stop_token_ids),
        prompt_token_ids=tuple(message.prompt_token_ids),
        block_hashes=read_hashes(message.block_hashes, num_shareable_blocks(message.num_prompt_tokens)),
        num_stages=max(1, message.num_stages),
        num_known_tokens=num_known,
        resume=message.resume,
        follow=message.follow,
        grammar=_read_grammar(message),
        pooling=_read_pooling(message),
    )


def _read_grammar(message: edge_pb2.OpenSession) -> Grammar | None:
    return read_grammar(message.grammar) if message.HasField("grammar") else None


def _read_pooling(message: edge_pb2.OpenSession) -> Pooling | None:
    """How a prompt becomes a vector.

    Raises:
        InvalidRequestError: if that is not known here, or the session goes on or has a grammar.
    """
    if message.pooling == common_pb2.POOLING_UNSPECIFIED:
        return None
    if message.pooling not in _POOLINGS:
        raise InvalidRequestError(f"pooling {message.pooling} is not known to this release")
    if message.resume or message.HasField("grammar"):
        raise InvalidRequestError("a vector of a prompt is made in one go, and has no grammar: begin it anew")
    return _POOLINGS[message.pooling]


def _check_sizes(message: edge_pb2.OpenSession) -> None:
    """Before anything of a message is copied."""
    _check_name(message.model_id)
    _check_name(message.predecessor)
    lengths = (
        ("bytes of a manifest's digest", len(message.manifest_digest), MAX_DIGEST_BYTES),
        ("tokens in all", message.max_total_tokens, MAX_TOTAL_TOKENS),
        ("stop tokens", len(message.stop_token_ids), MAX_STOP_TOKENS),
        ("tokens of a prompt", len(message.prompt_token_ids), message.max_total_tokens),
        ("biased tokens", len(message.sampling.logit_bias), MAX_BIASED_TOKENS),
    )
    for what, length, most in lengths:
        if length > most:
            raise InvalidRequestError(f"{length} {what} are over the limit of {most}")


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME_CHARS:
        raise InvalidRequestError(f"a name of {len(name)} characters is over the limit of {MAX_NAME_CHARS}")


def read_peer(stage: common_pb2.Stage) -> Peer:
    """Read whom rows are to be pushed to.

    Raises:
        InvalidRequestError: if its id or address is too long (B2).
    """
    _check_name(stage.node_id)
    _check_name(stage.address)
    return Peer(node_id=stage.node_id, address=stage.address)


def read_resume(message: edge_pb2.ResumeSession) -> ResumeRequest:
    """Read a coordinator's ResumeSession.

    Raises:
        InvalidRequestError: if its follower's id or address is too long (B2).
    """
    follow = read_follow(message)
    return ResumeRequest(
        session=message.session,
        epoch=message.epoch,
        position=message.position,
        push_from=message.push_from,
        follow=follow if follow.follower else None,
    )


def read_follow(message: edge_pb2.FollowSession | edge_pb2.ResumeSession) -> FollowRequest:
    """Read a coordinator's FollowSession, or what is of it in a ResumeSession.

    Raises:
        InvalidRequestError: if the follower's id or address is too long (B2).
    """
    stage = message.follower
    return FollowRequest(
        session=message.session,
        epoch=message.epoch,
        follower=read_peer(stage) if stage.node_id else None,
        follow_from=message.follow_from,
    )


def read_hashes(hashes: Sequence[bytes], num_most: int) -> tuple[bytes, ...]:
    """Read the hashes of a session's blocks.

    Raises:
        InvalidRequestError: if there are more than `num_most`, or one has another length.
    """
    if len(hashes) > num_most:  # before they are copied
        raise InvalidRequestError(
            f"{len(hashes)} block hashes came; a session of so many tokens has at most {num_most}"
        )
    if any(len(each) != HASH_BYTES for each in hashes):
        raise InvalidRequestError(f"a block hash has {HASH_BYTES} bytes; one of another length came")
    return tuple(hashes)


def read_sampling(message: common_pb2.SamplingParams) -> SamplingParams:
    """Read sampling parameters.

    Raises:
        InvalidRequestError: if one is out of its bounds.
    """
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        seed=message.seed,
        num_logprobs=message.num_logprobs if message.HasField("num_logprobs") else None,
        logit_bias=tuple(sorted(message.logit_bias.items())),
    )


def read_rows(frame: edge_pb2.Frame) -> Rows:
    """Whose rows a frame carries."""
    return Rows(session=frame.session, epoch=frame.epoch, position=frame.position, count=frame.count)


def read_tensor(batch: edge_pb2.FrameBatch) -> torch.Tensor:
    """The rows of a checked batch: [num_tokens] int32 token ids, or [num_tokens, hidden_size]."""
    # bytearray: torch wants memory that it may write to
    flat = torch.frombuffer(bytearray(batch.data), dtype=TORCH_DTYPES[batch.dtype])
    return flat.view(batch.shape[0], -1) if len(batch.shape) > 1 else flat


def write_batch(rows: Sequence[Rows], tensor: torch.Tensor) -> edge_pb2.LinkMessage:
    """A message that carries `tensor`, [num_tokens] int32 or [num_tokens, hidden_size], contiguous, on the CPU."""
    return write_bytes(rows, WIRE_DTYPES[tensor.dtype], tensor.shape, tensor.view(torch.uint8).numpy().tobytes())


def write_bytes(
    rows: Sequence[Rows], dtype: common_pb2.DType.ValueType, shape: Sequence[int], data: bytes
) -> edge_pb2.LinkMessage:
    """A message that carries the bytes of a tensor, [num_tokens] int32 or [num_tokens, hidden_size]."""
    message = edge_pb2.LinkMessage()
    batch = message.frames  # filled in place: a message put into another is copied, data and all
    for part in rows:
        batch.frames.add(session=part.session, epoch=part.epoch, position=part.position, count=part.count)
    batch.dtype = dtype
    batch.shape.extend(shape)
    batch.data = data
    return message


def write_token(sampled: Sampled) -> edge_pb2.Token:
    """One drawn token, or the vector of a prompt, for the coordinator."""
    if sampled.embedding:
        return edge_pb2.Token(
            session=sampled.session,
            epoch=sampled.epoch,
            index=sampled.index,
            finish=_FINISH[sampled.finish],
            embedding=sampled.embedding,
        )
    token = common_pb2.SampledToken(token_id=sampled.token_id, logprob=sampled.logprob)
    token.top.extend(common_pb2.TokenLogprob(token_id=other, logprob=logprob) for other, logprob in sampled.top)
    return edge_pb2.Token(
        session=sampled.session,
        epoch=sampled.epoch,
        index=sampled.index,
        token=token,
        finish=_FINISH[sampled.finish],
    )


def write_failed(session: int, epoch: int, error: OsaiError, *, is_open: bool = False) -> edge_pb2.LinkMessage:
    """The end of a session, for whoever asked for something of it; or of an epoch, where it `is_open` still."""
    failed = edge_pb2.SessionFailed(session=session, epoch=epoch, error=error.to_proto(), open=is_open)
    return edge_pb2.LinkMessage(failed=failed)


def write_report(report: Report) -> edge_pb2.LinkMessage:
    """How far a standby is."""
    progress = edge_pb2.SessionProgress(session=report.session, epoch=report.epoch, position=report.position)
    return edge_pb2.LinkMessage(progress=progress)
