"""Transformers' own loader over verified tensors: exact, and no altered byte gets in."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from osai.client.signing import build_manifest
from osai.core.errors import WeightsError
from osai.core.identity import Identity
from osai.core.manifest import SignedManifest, parse, sign
from osai.node.weights.source import LocalFolder
from osai.node.weights.verified import VerifiedCheckpoint


class Altered(LocalFolder):
    """A folder whose bytes change on their way."""

    def __init__(self, folder: Path, alter: Callable[[bytearray], bytearray]) -> None:
        super().__init__(folder)
        self._alter = alter

    def read(self, file: str, begin: int, end: int) -> bytearray:
        return self._alter(super().read(file, begin, end))


def flipped(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 1
    return data


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SignedManifest]:
    path = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path, max_shard_size="4KB")
    return path, parse(sign(build_manifest(path, "me/llama", 1, "mit"), Identity.generate()))


def load(checkpoint: VerifiedCheckpoint, folder: Path) -> LlamaForCausalLM:
    """What transformers' own loader makes of lazy tensors."""
    lazy = {name: checkpoint.tensor(name) for name in checkpoint.names}
    config = LlamaConfig.from_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(None, config=config, state_dict=lazy, dtype=torch.float32)


def test_transformers_loads_through_it(llama: tuple[Path, SignedManifest]) -> None:
    folder, signed = llama
    total: list[int] = []
    checkpoint = VerifiedCheckpoint(LocalFolder(folder), signed, total.append)
    model = load(checkpoint, folder)
    checkpoint.raise_failure()
    expected = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert sum(total) == sum(entry.size_bytes for entry in signed.manifest.tensors)


def test_a_failure_that_transformers_may_swallow_is_raised_afterwards(llama: tuple[Path, SignedManifest]) -> None:
    folder, signed = llama
    checkpoint = VerifiedCheckpoint(Altered(folder, flipped), signed)
    with pytest.raises(WeightsError, match="differs"):  # noqa: PT012 (either of the two may raise)
        load(checkpoint, folder)
        checkpoint.raise_failure()


@given(st.data())
def test_no_altered_bytes_become_a_tensor(llama: tuple[Path, SignedManifest], data: st.DataObject) -> None:
    folder, signed = llama
    entry = data.draw(st.sampled_from(signed.manifest.tensors))
    at, bit = data.draw(st.integers(0, entry.size_bytes - 1)), data.draw(st.integers(0, 7))

    def alter(original: bytearray) -> bytearray:
        original[at] ^= 1 << bit
        return original

    checkpoint = VerifiedCheckpoint(Altered(folder, alter), signed)
    with pytest.raises(WeightsError, match=entry.name):
        checkpoint.tensor(entry.name)[...]
