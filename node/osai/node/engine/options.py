"""What can be set on an engine, and what it says of a span that it hosts."""

from dataclasses import dataclass

from osai.core.layers import LayerRange

_CPU_PREFILL_TOKENS = 128
_ACCELERATOR_PREFILL_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """What the steps of a span may take; see EngineOptions."""

    max_prefill_tokens: int = _ACCELERATOR_PREFILL_TOKENS
    min_prefill_tokens: int = 4
    short_prompt_tokens: int = 64
    max_decode_stretch: float = 1.5
    max_waiting_rows: int = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine runs its steps.

    Attributes:
        max_prefill_tokens: prompt tokens in one step, all sessions together, while nobody decodes. None: 128 on a CPU,
            512 elsewhere. Reading the weights is paid for by some ten rows on a CPU core, some hundred on a GPU.
            Shorter chunks fill a pipeline sooner: on a CPU a row costs the same in chunks of 64 to 512, and a prompt of
            2,048 tokens takes 3.76, 3.80 and 4.49 s over 2 stages in chunks of 128, 256 and 512.
        min_prefill_tokens: prompt tokens in one step at least, whoever decodes, so that a prompt that waits comes to
            its end. 4 are almost free beside a decode row, as the weights are read anyway. With 8, whose attention over
            some thousand tokens costs as much as the step, the longest gaps between tokens grew 3.1 times, not 1.8.
        short_prompt_tokens: a prompt of so few tokens goes into steps without regard to who decodes: it is one pause,
            as long as a few tokens take, and by the least of rows it would wait for many steps.
        max_decode_stretch: how many times longer a step with decode rows may take because of prompts. At 1.5 a token
            comes about half again as late. A prompt of 4,096 tokens beside one session takes 4.5 times as long as
            alone over 2 stages of one CPU core, which are bound by arithmetic; where rows are nearly free, 1 to 2
            times. Below 1.25, the distance between step sizes, no more than min_prefill_tokens would ever be tried.
        max_waiting_rows: rows of one span that may wait for their step. 65536 rows take 1 GiB at a hidden size of
            8192 in bf16: the prompt of one session of any common context, or those of many shorter ones.
        block_size: tokens in a KV block. 16 wastes at most 15 tokens a session, and keeps block tables short.
        num_threads: torch threads of the engine; None leaves torch's own choice, the number of cores.
        stop_timeout_s: seconds that `stop` waits for the step in hand. 30 is more than any step should take.
    """

    max_prefill_tokens: int | None = None
    min_prefill_tokens: int = 4
    short_prompt_tokens: int = 64
    max_decode_stretch: float = 1.5
    max_waiting_rows: int = 65536
    block_size: int = 16
    num_threads: int | None = None
    stop_timeout_s: float = 30.0

    def step_limits(self, device_type: str) -> StepLimits:
        """What the steps of a span on such a device ("cpu", "cuda") may take."""
        usual = _CPU_PREFILL_TOKENS if device_type == "cpu" else _ACCELERATOR_PREFILL_TOKENS
        most = self.max_prefill_tokens if self.max_prefill_tokens is not None else usual
        return StepLimits(
            max_prefill_tokens=most,
            min_prefill_tokens=min(self.min_prefill_tokens, most),
            short_prompt_tokens=self.short_prompt_tokens,
            max_decode_stretch=self.max_decode_stretch,
            max_waiting_rows=self.max_waiting_rows,
        )


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
