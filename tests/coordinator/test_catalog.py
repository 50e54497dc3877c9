"""Models that a coordinator serves: what is not as the publisher signed it is refused, and named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from coordinator.builders import MODEL, model, train_byte_level
from osai.client.signing import build_manifest
from osai.coordinator import catalog
from osai.coordinator.api import ChatMessage
from osai.coordinator.catalog import Catalog, ServedModel
from osai.coordinator.text import Tokenizer
from osai.core.errors import ManifestError, OsaiError, SetupError, UnknownModelError, WeightsError
from osai.core.identity import Identity
from osai.core.layers import LayerRange
from osai.core.manifest import MANIFEST_FILE, Manifest, TrustPolicy, parse, sign, unsigned
from osai.core.precision import parse_precision

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 4,
    "vocab_size": 420,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "eos_token_id": 2,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def key() -> Identity:
    return Identity.generate()


@pytest.fixture(scope="module")
def trust(key: Identity) -> TrustPolicy:
    return TrustPolicy.of([key.public_key])


@pytest.fixture
def folder(tmp_path: Path, key: Identity) -> Path:
    """A signed checkpoint of two layers."""
    path = train_byte_level(tmp_path / "small")
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 4]}))
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": np.ones((4, 4), np.float32) for i in range(2)}
    outer = {"model.embed_tokens.weight": np.ones((420, 4), np.float32), "model.norm.weight": np.ones(4, np.float32)}
    save_file({**tensors, **outer}, path / "model.safetensors")
    signed(path, key)
    return path


def signed(folder: Path, key: Identity, change: Callable[[Manifest], Manifest] = lambda manifest: manifest) -> None:
    manifest = change(build_manifest(folder, MODEL, 1, "mit", created_s=1_700_000_000))
    (folder / MANIFEST_FILE).write_bytes(sign(manifest, key))


def load_model(folder: Path, manifest: Path | None, trust: TrustPolicy, *, allow_unsigned: bool) -> ServedModel:
    """As a coordinator does whose state lies beside the folder."""
    state_dir = folder.parent / "state"
    return catalog.load_model(folder, manifest, trust, allow_unsigned=allow_unsigned, state_dir=state_dir)


def test_a_signed_folder_is_served_with_its_facts(folder: Path, trust: TrustPolicy) -> None:
    served = load_model(folder, None, trust, allow_unsigned=False)
    assert (served.model_id, served.signed, served.source) == (MODEL, True, "")
    assert served.manifest_file == (folder / MANIFEST_FILE).read_bytes()
    assert (served.facts.num_layers, served.facts.max_context, served.facts.eos_token_ids) == (2, 64, (2, 4))
    assert served.encode("fox") == served.tokenizer.encode("fox")
    assert served.encode((7, 8)) == (7, 8)
    assert served.encode(()) == ()
    chat = (ChatMessage(role="user", content="hi"),)
    assert served.encode(chat) == served.tokenizer.encode(list(chat))


def test_a_manifest_may_lie_elsewhere(folder: Path, trust: TrustPolicy, tmp_path: Path) -> None:
    moved = (folder / MANIFEST_FILE).rename(tmp_path / "elsewhere.json")
    assert load_model(folder, moved, trust, allow_unsigned=False).signed
    with pytest.raises(ManifestError, match="osai manifest create"):
        load_model(folder, None, trust, allow_unsigned=True)


def test_sizes_follow_the_dtype(folder: Path, trust: TrustPolicy) -> None:
    """A layer: 16 numbers of weights, and 64 tokens of 2 x 2 numbers of KV. Outside: 421 x 4 numbers."""
    served = load_model(folder, None, trust, allow_unsigned=False)
    numbers = {"layer": 16 + 64 * 4, "outer": 421 * 4}
    for dtype, item_bytes in {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 4}.items():
        size = served.size(parse_precision(dtype))
        assert size.layer_bytes == (item_bytes * numbers["layer"],) * 2
        assert size.head_bytes == size.tail_bytes == item_bytes * numbers["outer"]
    assert size.span_bytes(LayerRange(0, 2)) == 4 * (2 * numbers["layer"] + 2 * numbers["outer"])


def test_quantised_weights_take_less_and_kv_as_much_as_ever(folder: Path, trust: TrustPolicy, key: Identity) -> None:
    """A layer: 128 x 128 numbers of a linear weight, 128 of a norm, and 64 tokens of 4 numbers of KV."""
    tensors = {
        "model.layers.0.mlp.up_proj.weight": np.ones((128, 128), np.float32),
        "model.layers.0.input_layernorm.weight": np.ones(128, np.float32),
        "model.layers.1.mlp.experts.0.up_proj.weight": np.ones((128, 128), np.float32),
        "model.embed_tokens.weight": np.ones((512, 128), np.float32),
        "lm_head.weight": np.ones((512, 128), np.float32),
    }
    save_file(tensors, folder / "model.safetensors")
    signed(folder, key)
    served = load_model(folder, None, trust, allow_unsigned=False)
    kv = 64 * 4
    for text, item_bytes, weight_bytes in [
        ("auto+int8", 4, 1), ("bfloat16+int8", 2, 1), ("bfloat16+fp8", 2, 1), ("bfloat16+int4", 2, 0.5 + 4 / 128),
    ]:  # fmt: skip
        size = served.size(parse_precision(text))
        linear = int(128 * 128 * weight_bytes) + 128 * item_bytes
        assert size.layer_bytes == (linear + (128 + kv) * item_bytes, (128 * 128 + kv) * item_bytes)  # experts stay
        head = int(512 * 128 * weight_bytes) + 512 * item_bytes
        assert size.head_bytes == size.tail_bytes == 512 * 128 * item_bytes + head


def test_unsigned_is_served_only_if_allowed_and_marked(
    folder: Path, trust: TrustPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = parse((folder / MANIFEST_FILE).read_bytes()).manifest
    (folder / MANIFEST_FILE).write_bytes(unsigned(manifest))
    with pytest.raises(ManifestError, match="unsigned"):
        load_model(folder, None, trust, allow_unsigned=False)
    assert not load_model(folder, None, trust, allow_unsigned=True).signed
    assert "UNVERIFIED MODEL" in caplog.text


def test_a_key_that_is_not_trusted_is_refused(folder: Path) -> None:
    with pytest.raises(ManifestError, match="not a trusted key"):
        load_model(folder, None, TrustPolicy.of([Identity.generate().public_key]), allow_unsigned=False)


def test_an_older_manifest_than_one_that_was_served_is_refused(folder: Path, trust: TrustPolicy, key: Identity) -> None:
    signed(folder, key, lambda manifest: replace(manifest, version=2))
    load_model(folder, None, trust, allow_unsigned=False)
    signed(folder, key)
    with pytest.raises(ManifestError, match=r"version 1 .* is older than version 2"):
        load_model(folder, None, trust, allow_unsigned=False)
    assert not load_model(folder, None, trust, allow_unsigned=True).signed


def test_an_expired_manifest_is_refused(folder: Path, trust: TrustPolicy, key: Identity) -> None:
    signed(folder, key, lambda manifest: replace(manifest, not_after_s=1_700_000_001))
    with pytest.raises(ManifestError, match="has expired on 2023-11-14T22:13:21"):
        load_model(folder, None, trust, allow_unsigned=False)


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b'{"signatures":[],"signed":{}}\n', b"\xff\xfe"])
def test_a_malformed_manifest_is_refused(folder: Path, trust: TrustPolicy, data: bytes) -> None:
    (folder / MANIFEST_FILE).write_bytes(data)
    with pytest.raises(ManifestError):
        load_model(folder, None, trust, allow_unsigned=True)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "chat_template.jinja", "generation_config.json"])
@pytest.mark.parametrize("allow_unsigned", [True, False])
def test_a_flipped_bit_is_found_and_named(folder: Path, trust: TrustPolicy, name: str, *, allow_unsigned: bool) -> None:
    flip(folder / name)
    with pytest.raises(WeightsError, match=f"{name} differs from the manifest") as caught:
        load_model(folder, None, trust, allow_unsigned=allow_unsigned)
    assert caught.value.subject == name


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, trust: TrustPolicy, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"{name} can't be read") as caught:
        load_model(folder, None, trust, allow_unsigned=False)
    assert caught.value.subject == name


def test_a_manifest_without_config_is_refused(folder: Path, trust: TrustPolicy, key: Identity) -> None:
    def without(manifest: Manifest) -> Manifest:
        return replace(manifest, files=tuple(f for f in manifest.files if f.path != "config.json"))

    signed(folder, key, without)
    with pytest.raises(ManifestError, match=r"does not list config\.json"):
        load_model(folder, None, trust, allow_unsigned=False)


@pytest.mark.parametrize(
    "name", ["added_tokens.json", "additional_chat_templates/tools.jinja", "special_tokens_map.json"]
)
def test_a_file_that_nobody_signed_is_refused(folder: Path, trust: TrustPolicy, name: str) -> None:
    """The tokenizer would read it: a chat template put there afterwards used to be taken."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(WeightsError, match="is not in the manifest") as caught:
        load_model(folder, None, trust, allow_unsigned=False)
    assert caught.value.subject == name


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.json", "{", "is no JSON"),
        ("config.json", "[1]", "holds no JSON object"),
        ("config.json", "[" * 100_000, "is no JSON"),
        ("generation_config.json", "nonsense", "is no JSON"),
        ("config.json", "{}", "num_hidden_layers is missing"),
        ("config.json", json.dumps({**CONFIG, "vocab_size": -1}), "vocab_size is -1"),
        ("config.json", json.dumps({**CONFIG, "num_hidden_layers": 3}), "says 3 layers"),
        ("tokenizer.json", "{}", "no tokenizer that can be read"),
    ],
)
def test_signed_nonsense_is_a_typed_error(
    folder: Path, trust: TrustPolicy, key: Identity, name: str, text: str, words: str
) -> None:
    (folder / name).write_text(text)
    signed(folder, key)
    with pytest.raises(WeightsError, match=words):
        load_model(folder, None, trust, allow_unsigned=False)


def test_models_are_found_by_id(tokenizer: Tokenizer) -> None:
    one, two = model(tokenizer, "me/one"), model(tokenizer, "me/two")
    both = Catalog([one, two])
    assert both.models == (one, two)
    assert both.get("me/two") is two
    assert Catalog([one]).get("") is one
    for served, asked, words in [
        ([one, two], "me/three", "'me/three' is not served here; served are: me/one, me/two"),
        ([one, two], "", "name a model; served are: me/one, me/two"),
        ([], "me/one", "served are: none"),
        ([], "", "name a model; served are: none"),
    ]:
        assert refusal(served, asked).message.endswith(words)
    with pytest.raises(SetupError, match="two models are called me/one"):
        Catalog([one, one])


def refusal(served: list[ServedModel], asked: str) -> OsaiError:
    with pytest.raises(UnknownModelError) as caught:
        Catalog(served).get(asked)
    return caught.value
