"""In bfloat16 osai's kernels round elsewhere than transformers does: no worse, says the model in float32."""

import pytest
import torch

from families.checkpoints import FAMILIES
from families.fixtures import Checkpoints
from families.reference import lazy_tensors, load_whole, read_config
from osai.core.layers import LayerRange
from osai.node.engine.attention import install
from osai.node.engine.block_table import BlockTable
from osai.node.engine.kernels.library import load_kernels
from osai.node.engine.kv_cache import KVCache
from osai.node.engine.kv_shapes import measure_shapes
from osai.node.engine.layout import Part
from osai.node.engine.packed_step import run_packed_step
from osai.node.engine.span_model import load_span

NUM_PROMPT, NUM_TOKENS = 21, 45
MAX_RATIO = 1.5  # errors of single numbers are rounding's luck: medians are compared
MIXTURES = ("llama4_scout", "llama4_maverick", "llama4_wrapped", "mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3")
MAX_RATIO_OF_MIXTURES = 3  # where a rounding decides between experts, logits change by far more, in both


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_as_near_to_float32_as_those_of_transformers(family: str, checkpoints: Checkpoints) -> None:
    assert load_kernels() is not None
    path = checkpoints(family)
    tokens = torch.randint(3, 370, (NUM_TOKENS,), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        exact, theirs = (load_whole(path, dtype)(tokens[None]).logits[0, NUM_PROMPT - 1 :].float()
                         for dtype in (torch.float32, torch.bfloat16))  # fmt: skip
    span = load_span(read_config(path), lazy_tensors(path), LayerRange(0, 6), dtype=torch.bfloat16)
    binding = install(span)
    cache, table = KVCache(measure_shapes(span, binding), 4, 16), BlockTable(range(4), 16)
    steps = [Part(table, 0, NUM_PROMPT), *(Part(table, position, 1) for position in range(NUM_PROMPT, NUM_TOKENS))]
    ours = torch.cat([
        run_packed_step(span, binding, cache, [part], tokens[part.position : part.end], [part.count - 1])
        for part in steps
    ]).float()  # fmt: skip
    our_error, their_error = (float((logits - exact).abs().mean(-1).median()) for logits in (ours, theirs))
    assert their_error > 0, "bfloat16 that rounds nothing would prove nothing"
    assert our_error <= (MAX_RATIO_OF_MIXTURES if family in MIXTURES else MAX_RATIO) * their_error
