import pytest
import torch
import transformers as tf
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe

from osai.node.engine.llama4_moe import install_sparse_experts


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("num_tokens", [1, 7, 40])
def test_chosen_experts_give_what_all_of_them_give(top_k: int, num_tokens: int) -> None:
    torch.manual_seed(top_k)
    config = tf.Llama4TextConfig(
        hidden_size=32, intermediate_size=48, intermediate_size_mlp=64, num_local_experts=5, num_experts_per_tok=top_k
    )
    moe = Llama4TextMoe(config).eval()
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    hidden = torch.randn(1, num_tokens, 32)
    with torch.inference_mode():
        want, _ = moe(hidden)
        assert install_sparse_experts(moe) == [moe]
        num_rows: list[int] = []
        moe.experts.act_fn.register_forward_hook(lambda _, args, __: num_rows.append(args[0].shape[0]))
        got, _ = moe(hidden)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert sum(num_rows) == num_tokens * top_k, "no expert sees a token that was not routed to it"
