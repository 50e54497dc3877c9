"""What coordinators ask of a stage table, and what steps give it."""

from dataclasses import replace
from typing import Any

from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Rows, Sampled, StepOutput
from osai.node.stages.stage import HostedSpan, Keep, OpenRequest, Peer, ResumeRequest
from osai.node.stages.table import StageTable

NEXT = Peer(node_id="next", address="127.0.0.1:2")
HEAD = Peer(node_id="head", address="127.0.0.1:1")
SPARE = Peer(node_id="spare", address="127.0.0.1:3")
DIGEST = b"d" * 32
MIDDLE, TAIL = LayerRange(2, 4), LayerRange(4, 6)


def table(start: int = 2, end: int = 4, num_layers: int = 6) -> StageTable:
    stages = StageTable()
    stages.host(HostedSpan(key="m", layers=LayerRange(start, end), num_layers=num_layers, manifest_digest=DIGEST))
    return stages


def request(
    session: int = 1,
    *,
    layers: LayerRange = MIDDLE,
    successor: Peer = NEXT,
    **fields: Any,  # noqa: ANN401
) -> OpenRequest:
    """A prompt of 4 tokens, 10 in all."""
    plain = OpenRequest(
        session=session,
        epoch=1,
        model_id="m",
        layers=layers,
        manifest_digest=DIGEST,
        successor=successor,
        num_prompt_tokens=4,
        max_total_tokens=10,
        sampling=SamplingParams(temperature=1.0),
        stop_token_ids=frozenset({2}),
        prompt_token_ids=(1, 2, 3, 4),
    )
    return replace(plain, **fields)


def resumption(epoch: int, num_known: int, **fields: Any) -> OpenRequest:  # noqa: ANN401
    return request(epoch=epoch, resume=True, num_known_tokens=num_known, **fields)


def beginning(epoch: int, position: int, push_from: int, **fields: Any) -> ResumeRequest:  # noqa: ANN401
    return ResumeRequest(session=1, epoch=epoch, position=position, push_from=push_from, **fields)


def rows(session: int = 1, position: int = 4, count: int = 1, epoch: int = 1) -> Rows:
    return Rows(session=session, epoch=epoch, position=position, count=count)


def kept(parts: tuple[Rows, ...], *starts: int) -> Keep:
    return Keep(rows=parts, starts=starts)


def step(*parts: Rows, sampled: tuple[Sampled, ...] = ()) -> StepOutput:
    return StepOutput(span="m", rows=parts, hidden=None, sampled=sampled)
