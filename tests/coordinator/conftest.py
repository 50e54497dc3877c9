"""Tokenizers, trained once: loading transformers takes seconds."""

import pytest

from coordinator.builders import train_byte_fallback, train_byte_level
from osai.coordinator.text import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Byte-level BPE with a chat template."""
    return Tokenizer(train_byte_level(tmp_path_factory.mktemp("byte-level")))


@pytest.fixture(scope="session")
def fallback_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Metaspaces and byte fallback."""
    return Tokenizer(train_byte_fallback(tmp_path_factory.mktemp("byte-fallback")))
