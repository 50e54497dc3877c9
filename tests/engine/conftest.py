from pathlib import Path

import pytest

from engine.harness import PROMPT
from families.fixtures import Checkpoints, checkpoints, one_quiet_torch_thread
from families.reference import generate_greedy, load_whole

__all__ = ["checkpoints", "llama", "one_quiet_torch_thread", "reference"]


@pytest.fixture(scope="session")
def llama(checkpoints: Checkpoints) -> Path:
    """The checkpoint that most of these tests use."""
    return checkpoints("llama")


@pytest.fixture(scope="session")
def reference(llama: Path) -> list[int]:
    """32 greedy tokens after PROMPT, by transformers."""
    return generate_greedy(load_whole(llama), PROMPT, 32)
