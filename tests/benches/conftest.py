"""Checkpoints for the benches."""

from pathlib import Path

import pytest

from families.fixtures import Checkpoints, checkpoints, one_quiet_torch_thread

__all__ = ["checkpoints", "llama", "one_quiet_torch_thread"]


@pytest.fixture(scope="session")
def llama(checkpoints: Checkpoints) -> Path:
    """A tiny checkpoint in place of the benches' own."""
    return checkpoints("llama")
