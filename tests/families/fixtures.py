"""Checkpoints as pytest fixtures: import them into a conftest.py."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import logging as transformers_logging

from families.checkpoints import make

Checkpoints = Callable[[str], Path]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Family -> path of its checkpoint, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made: dict[str, Path] = {}

    def checkpoint(family: str) -> Path:
        if family not in made:
            made[family] = make(family, folder)
        return made[family]

    return checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_quiet_torch_thread() -> Iterator[None]:
    """One thread, as small models gain nothing from more; no progress bars of transformers between the results."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    yield
    transformers_logging.enable_progress_bar()
    transformers_logging.set_verbosity(verbosity)
    torch.set_num_threads(before)
