from typing import Any

import pytest
import torch
import transformers as tf
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Experts
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from families.fixtures import Checkpoints
from families.reference import lazy_tensors, read_config
from osai.core.layers import LayerRange
from osai.node.engine import packed_linear
from osai.node.engine.experts import by_expert, install_experts
from osai.node.engine.kernels.library import load_kernels
from osai.node.engine.packed_linear import PackedLinear
from osai.node.engine.span_model import load_span

NUM_EXPERTS, TOP_K, HIDDEN = 5, 2, 64
MOE_FAMILIES = ("mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "llama4_scout")


def make(kind: str) -> Any:  # noqa: ANN401  transformers' classes are not typed here
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 96, "num_experts_per_tok": TOP_K}
    match kind:
        case "mixtral":
            experts = MixtralExperts(tf.MixtralConfig(**sizes, num_local_experts=NUM_EXPERTS))
        case "qwen3_moe":
            experts = Qwen3MoeExperts(tf.Qwen3MoeConfig(**sizes, moe_intermediate_size=32, num_experts=NUM_EXPERTS))
        case "deepseek_v3":
            config = tf.DeepseekV3Config(**sizes, moe_intermediate_size=32, n_routed_experts=NUM_EXPERTS)
            experts = DeepseekV3Experts(config)
        case _:
            experts = GptOssExperts(tf.GptOssConfig(**sizes, num_local_experts=NUM_EXPERTS))
    experts.config._experts_implementation = "eager"
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.3)
    return experts.eval()


@pytest.fixture(autouse=True)
def packs_whatever_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "MIN_ELEMENTS", dict.fromkeys(packed_linear.MIN_ELEMENTS, 0))
    torch.manual_seed(0)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("num_tokens", [1, 3, 40])
@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_every_way_gives_what_transformers_loop_gives(kind: str, num_tokens: int, *, split: bool) -> None:
    experts = make(kind)
    hidden, weights = torch.randn(num_tokens, HIDDEN), torch.rand(num_tokens, TOP_K)
    chosen = torch.stack([torch.randperm(NUM_EXPERTS)[:TOP_K] for _ in range(num_tokens)])
    with torch.inference_mode():
        want = experts(hidden, chosen, weights)
        assert install_experts(nn.ModuleList([experts]), experts.config, load_kernels(), split=split) == 1
        got = experts(hidden, chosen, weights)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    assert experts.config._experts_implementation == "grouped_mm"


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("num_tokens", [1, 7, 40])
@pytest.mark.parametrize("top_k", [1, 2])
def test_llama4_by_groups_and_by_linears(top_k: int, num_tokens: int, *, split: bool) -> None:
    config = tf.Llama4TextConfig(
        hidden_size=HIDDEN, intermediate_size=48, intermediate_size_mlp=64, num_local_experts=NUM_EXPERTS,
        num_experts_per_tok=top_k,
    )  # fmt: skip
    moe = Llama4TextMoe(config).eval()
    for parameter in moe.parameters():
        nn.init.normal_(parameter, std=0.3)
    hidden = torch.randn(1, num_tokens, HIDDEN)
    with torch.inference_mode():
        want, want_logits = moe(hidden)
        assert install_experts(nn.ModuleList([moe]), config, load_kernels(), split=split) == 1
        got, got_logits = moe(hidden)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(got_logits, want_logits)


@given(ids=st.lists(st.integers(0, 6), max_size=20))
def test_pairs_are_sorted_by_expert(ids: list[int]) -> None:
    order, experts, counts = by_expert(torch.tensor(ids, dtype=torch.int64))
    ordered = ids if order is None else [ids[i] for i in order.tolist()]
    assert ordered == [expert for expert, count in zip(experts, counts, strict=True) for _ in range(count)]
    assert len(set(experts)) == len(experts)
    assert sorted(ordered) == sorted(ids)


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_a_spans_experts_are_packed_and_nothing_is_kept_twice(family: str, checkpoints: Checkpoints) -> None:
    path = checkpoints(family)
    plain, split = (
        load_span(read_config(path), lazy_tensors(path), LayerRange(0, 6), dtype=torch.bfloat16, pack=pack)
        for pack in (False, True)
    )
    assert not any("gate_up_proj" in name for name, parameter in split.model.named_parameters() if parameter.ndim == 3)
    assert any("experts" in name for name, m in split.model.named_modules() if isinstance(m, PackedLinear))
    assert split.weight_bytes == pytest.approx(plain.weight_bytes, rel=0.15)  # panels of small layers are padded
    assert split.config._experts_implementation == "grouped_mm"
