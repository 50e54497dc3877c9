"""Small configurations of every model family: which class, and its config."""

from collections.abc import Callable
from typing import Any

import transformers as tf

VOCAB_SIZE = 384
NUM_LAYERS = 6
WINDOW = 16
SEEDS = {"falcon": 6, "qwen3_moe": 6}  # others 0; with these the greedy output is not constant

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.12,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_LLAMA3_ROPE: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LLAMA4: dict[str, Any] = {
    **_COMMON,
    "head_dim": 16,
    "intermediate_size_mlp": 128,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "attention_chunk_size": WINDOW,
    "floor_scale": 8,
    "attn_scale": 0.1,
    "attn_temperature_tuning": True,
    "rope_parameters": dict(_LLAMA3_ROPE),
}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_VISION4 = {**_VISION, "projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32}
_PIXTRAL = {**_VISION, "model_type": "pixtral", "head_dim": 16}
_ALTERNATING = ["sliding_attention", "full_attention"] * (NUM_LAYERS // 2)
_GEMMA = {
    **_COMMON,
    "head_dim": 24,
    "query_pre_attn_scalar": 20,
    "sliding_window": WINDOW,
    "layer_types": _ALTERNATING,
    "tie_word_embeddings": True,
}


def _llama() -> tuple[Any, Any]:
    """Llama 3.3: grouped-query attention, llama3 rope."""
    return tf.LlamaForCausalLM, tf.LlamaConfig(**_COMMON, rope_parameters=dict(_LLAMA3_ROPE))


def _llama4_scout() -> tuple[Any, Any]:
    """Every layer MoE, query and key norms, every fourth layer without rope and with full attention."""
    config = tf.Llama4TextConfig(**_LLAMA4, interleave_moe_layer_step=1, use_qk_norm=True)
    return tf.Llama4ForCausalLM, config


def _llama4_maverick() -> tuple[Any, Any]:
    """MoE in every second layer, no query and key norms."""
    config = tf.Llama4TextConfig(**_LLAMA4, interleave_moe_layer_step=2, use_qk_norm=False)
    return tf.Llama4ForCausalLM, config


def _llama4_wrapped() -> tuple[Any, Any]:
    """The published layout: text weights under language_model., beside a vision tower."""
    config = tf.Llama4Config(
        text_config={**_LLAMA4, "interleave_moe_layer_step": 2, "use_qk_norm": True},
        vision_config=_VISION4,
        tie_word_embeddings=False,
        boi_token_index=380,
        eoi_token_index=381,
        image_token_index=382,
    )
    return tf.Llama4ForConditionalGeneration, config


def _mixtral() -> tuple[Any, Any]:
    config = tf.MixtralConfig(**_COMMON, num_local_experts=4, num_experts_per_tok=2, sliding_window=None)
    return tf.MixtralForCausalLM, config


def _mistral() -> tuple[Any, Any]:
    """Mistral Small 3: head_dim is not hidden_size / heads, no window."""
    return tf.MistralForCausalLM, tf.MistralConfig(**_COMMON, head_dim=24, sliding_window=None)


def _mistral_window() -> tuple[Any, Any]:
    return tf.MistralForCausalLM, tf.MistralConfig(**_COMMON, head_dim=24, sliding_window=WINDOW)


def _mistral3_wrapped() -> tuple[Any, Any]:
    config = tf.Mistral3Config(
        text_config={**_COMMON, "model_type": "mistral", "head_dim": 24, "sliding_window": None},
        vision_config=_PIXTRAL,
        image_token_index=382,
        tie_word_embeddings=False,
    )
    return tf.Mistral3ForConditionalGeneration, config


def _qwen2() -> tuple[Any, Any]:
    return tf.Qwen2ForCausalLM, tf.Qwen2Config(**_COMMON)


def _qwen2_window() -> tuple[Any, Any]:
    config = tf.Qwen2Config(**_COMMON, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=3)
    return tf.Qwen2ForCausalLM, config


def _gemma2() -> tuple[Any, Any]:
    config = tf.Gemma2Config(**_GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=0.2)
    return tf.Gemma2ForCausalLM, config


def _falcon() -> tuple[Any, Any]:
    """Falcon 2 11B: new decoder architecture, grouped-query attention, rope, two layer norms."""
    renamed = ("intermediate_size", "num_key_value_heads")
    common = {key: value for key, value in _COMMON.items() if key not in renamed}
    config = tf.FalconConfig(
        **common,
        num_kv_heads=2,
        new_decoder_architecture=True,
        parallel_attn=True,
        bias=False,
        alibi=False,
        ffn_hidden_size=96,
    )
    return tf.FalconForCausalLM, config


def _qwen3() -> tuple[Any, Any]:
    return tf.Qwen3ForCausalLM, tf.Qwen3Config(**_COMMON, head_dim=24)


def _qwen3_moe() -> tuple[Any, Any]:
    config = tf.Qwen3MoeConfig(
        **_COMMON,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        decoder_sparse_step=1,
        norm_topk_prob=True,
    )
    return tf.Qwen3MoeForCausalLM, config


def _gemma3() -> tuple[Any, Any]:
    return tf.Gemma3ForCausalLM, tf.Gemma3TextConfig(**_GEMMA)


def _gpt_oss() -> tuple[Any, Any]:
    """Attention sinks, windows in every second layer, biased experts."""
    config = tf.GptOssConfig(
        **_COMMON,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=WINDOW,
        layer_types=_ALTERNATING,
    )
    return tf.GptOssForCausalLM, config


def _deepseek_v3() -> tuple[Any, Any]:
    """Latent attention, a dense first layer, grouped routing with shared experts."""
    config = tf.DeepseekV3Config(
        **{**_COMMON, "num_key_value_heads": 4},
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_shared_experts=1,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        moe_intermediate_size=32,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
    )
    return tf.DeepseekV3ForCausalLM, config


RECIPES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llama": _llama,
    "llama4_scout": _llama4_scout,
    "llama4_maverick": _llama4_maverick,
    "llama4_wrapped": _llama4_wrapped,
    "mixtral": _mixtral,
    "mistral": _mistral,
    "mistral_window": _mistral_window,
    "mistral3_wrapped": _mistral3_wrapped,
    "qwen2": _qwen2,
    "qwen2_window": _qwen2_window,
    "gemma2": _gemma2,
    "falcon": _falcon,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "gemma3": _gemma3,
    "gpt_oss": _gpt_oss,
    "deepseek_v3": _deepseek_v3,
}
FAMILIES = tuple(RECIPES)
