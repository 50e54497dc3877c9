"""What can be set on an engine, and what it says of a span that it hosts."""

from dataclasses import dataclass

from osai.core.layers import LayerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine runs its steps.

    Attributes:
        max_prefill_tokens: prompt tokens in one step, all sessions together. 512 keeps the weights' reading paid for
            (past some hundred rows a step is bound by arithmetic, not by memory), and is the longest that a decode
            row waits behind other sessions' prompts.
        max_waiting_rows: rows of one span that may wait for their step. 65536 rows take 1 GiB at a hidden size of
            8192 in bf16: the prompt of one session of any common context, or those of many shorter ones.
        block_size: tokens in a KV block. 16 wastes at most 15 tokens a session, and keeps block tables short.
        num_threads: torch threads of the engine; None leaves torch's own choice, the number of cores.
        stop_timeout_s: seconds that `stop` waits for the step in hand. 30 is more than any step should take.
    """

    max_prefill_tokens: int = 512
    max_waiting_rows: int = 65536
    block_size: int = 16
    num_threads: int | None = None
    stop_timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanInfo:
    """A hosted span.

    Attributes:
        key: its key in the engine.
        layers: the layers that it hosts.
        num_kv_tokens: tokens that its KV blocks hold, all sessions together.
        block_size: tokens in a block; a session takes whole blocks.
        kv_bytes_per_token: what one token takes on all layers of the span.
        weight_bytes: what its parameters take in memory.
    """

    key: str
    layers: LayerRange
    num_kv_tokens: int
    block_size: int
    kv_bytes_per_token: int
    weight_bytes: int
