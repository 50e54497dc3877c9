"""What the node's shell asks of the engine, and what it gets back."""

from dataclasses import dataclass, field

import torch

from osai.core.errors import OsaiError
from osai.core.sampling import SamplingParams
from osai.node.engine.constraint import Constraint
from osai.node.engine.pooling import Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """One session on one hosted span.

    Attributes:
        session: the session's number on every edge of its pipeline.
        span: key of the hosted span (see `Engine.add_span`).
        num_prompt_tokens: rows before this position are prompt; generated tokens are counted from here.
        max_total_tokens: prompt and generated tokens for which KV is set aside.
        sampling: None unless this stage is the tail.
        stop_token_ids: tokens that end the generation; tail only.
        prompt_token_ids: the prompt, and the tokens generated before this epoch, where a penalty needs them; tail only.
        block_hashes: of the prompt's full blocks from the first on (osai.core.prefix), but for one that would leave no
            row to run; KV of such a block may be shared.
        scope: sessions share KV only with sessions of the same scope.
        num_stages: stages of the pipeline.
        num_known_tokens: prompt and generated tokens that are known beforehand: the tail samples from the row of the
            last of them on. 0 stands for num_prompt_tokens.
        constraint: what the generated tokens must be, of no other session; tail only.
        pooling: nothing is generated: the tail gives one vector of the prompt; tail only.
    """

    session: int
    span: str
    num_prompt_tokens: int
    max_total_tokens: int
    sampling: SamplingParams | None = None
    stop_token_ids: frozenset[int] = frozenset()
    prompt_token_ids: tuple[int, ...] = ()
    block_hashes: tuple[bytes, ...] = ()
    scope: str = ""
    num_stages: int = 1
    num_known_tokens: int = 0
    constraint: Constraint | None = None
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        if not self.num_known_tokens:
            object.__setattr__(self, "num_known_tokens", self.num_prompt_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Tokens [position, position + count) of a session in one epoch."""

    session: int
    epoch: int
    position: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Rows that wait for their step.

    Attributes:
        rows: whose they are.
        data: int64 [count] token ids into the head, else [count, hidden_size] hidden states of the span's dtype.
    """

    rows: Rows
    data: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One token that the tail drew, or the vector of a prompt.

    Attributes:
        index: 0 for the first generated token; the token's own position is num_prompt_tokens + index.
        logprob: natural logarithm of its probability before temperature; None unless asked for.
        top: (token id, logprob) of the likeliest tokens, likeliest first.
        finish: "stop" or "length" on the last token, else None.
        embedding: of a session with `pooling`, and no token: float32 [hidden_size] of length 1, little-endian.
    """

    session: int
    epoch: int
    index: int
    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: str | None = None
    embedding: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """What one step of one span gives.

    Attributes:
        span: key of the span that ran.
        rows: in packed order.
        hidden: [sum of counts, hidden_size], CPU, contiguous; None from the tail.
        sampled: from the tail, one for each session whose newest row is that of its last known token or a later one.
        failed: sessions that this step ended, with the reason.
        step_time_s: seconds the step took in the engine thread.
    """

    span: str
    rows: tuple[Rows, ...]
    hidden: torch.Tensor | None
    sampled: tuple[Sampled, ...] = ()
    failed: tuple[tuple[Rows, OsaiError], ...] = ()
    step_time_s: float = field(default=0.0)
