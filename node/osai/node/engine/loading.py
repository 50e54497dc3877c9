"""Settings of transformers while it loads, undone afterwards."""

import contextlib
import logging
import os
from collections.abc import Iterator

from transformers import logging as transformers_logging


@contextlib.contextmanager
def read_one_by_one() -> Iterator[None]:
    """Let transformers read each tensor only when it is fused, or all experts would lie in memory twice."""
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and advice: what matters is raised as an error."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
