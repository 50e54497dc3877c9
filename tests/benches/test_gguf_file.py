"""The checkpoint as llama.cpp gets it: tensor by tensor, and what it computes."""

import json
from pathlib import Path

import pytest
import torch
import transformers as tf

from families.reference import lazy_tensors
from osai.core.errors import WeightsError

gguf = pytest.importorskip("gguf", reason="the extra [bench] is not installed")

PROMPT = [5, 17, 300, 42, 8, 99, 7, 250]


@pytest.fixture(scope="module")
def plain_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with plain rotary embeddings and a tied LM head, as the benches' own."""
    config = tf.LlamaConfig(
        hidden_size=64,
        num_hidden_layers=3,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=384,
        max_position_embeddings=256,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    path = tmp_path_factory.mktemp("gguf") / "plain"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tf.LlamaForCausalLM(config).save_pretrained(path, max_shard_size="100KB")
    return path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_tensor_arrives_with_its_values(plain_llama: Path, tmp_path: Path, dtype: str) -> None:
    from scripts.benches.gguf_file import llama_cpp_name, write_gguf

    write_gguf(plain_llama, tmp_path / "model.gguf", dtype)
    found = {t.name: t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    source = {name: tensor[:] for name, tensor in lazy_tensors(plain_llama).items()}  # type: ignore[index]
    assert set(found) == {llama_cpp_name(name) for name in source}
    for name, tensor in source.items():
        stored = found[llama_cpp_name(name)]
        wanted = tensor.to(getattr(torch, dtype)).float() if tensor.ndim == 2 else tensor
        got = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type).copy()).view(wanted.shape)
        if ".q_proj." in name or ".k_proj." in name:  # row i of a head's halves is row 2i or 2i + 1 of its pairs
            head_dim, rows = 16, torch.arange(len(wanted))
            head, row = rows // head_dim, rows % head_dim
            got = got[head * head_dim + row % 8 * 2 + row // 8]
        assert torch.equal(got, wanted), name


def test_llama_cpp_computes_the_same_model(plain_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the extra [bench] is not installed")
    from scripts.benches.gguf_file import write_gguf
    from scripts.benches.llama_peer import generate, load, logits_of
    from scripts.benches.peer import MAX_LOGITS_ERROR, distance

    file = tmp_path / "model.gguf"
    write_gguf(plain_llama, file, "float32")
    llama = load(str(file), 64, 1)
    model = tf.LlamaForCausalLM.from_pretrained(plain_llama, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = model(torch.tensor([PROMPT])).logits[0]
    assert distance(torch.from_numpy(logits_of(llama, PROMPT)), wanted[-1]) < MAX_LOGITS_ERROR / 10
    assert distance(torch.from_numpy(logits_of(llama, PROMPT[:-1])), wanted[-1]) > MAX_LOGITS_ERROR
    found = generate(llama, PROMPT, 4)
    assert found["token_ids"][0] == int(wanted[-1].argmax())  # type: ignore[index]
    assert len(found["arrivals"]) == 4  # type: ignore[arg-type]
    llama.close()


def test_what_is_no_plain_llama_is_refused(llama: Path, tmp_path: Path) -> None:
    from scripts.benches.gguf_file import llama_cpp_name, write_gguf

    assert json.loads((llama / "config.json").read_text())["rope_parameters"]["rope_type"] == "llama3"
    with pytest.raises(WeightsError, match="plain rotary"):
        write_gguf(llama, tmp_path / "model.gguf", "float32")
    with pytest.raises(WeightsError, match="no tensor of a plain Llama"):
        llama_cpp_name("model.layers.0.mlp.experts.gate_up_proj")
