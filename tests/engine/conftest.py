import ctypes
import shutil
from pathlib import Path

import pytest

from engine.harness import PROMPT
from families.fixtures import Checkpoints, checkpoints, one_quiet_torch_thread
from families.reference import generate_greedy, load_whole
from osai.node.engine.kernels.build import build, default_folder
from osai.node.engine.kernels.library import Kernels
from osai.node.engine.quantize_kernel import Int8Kernel

__all__ = ["checkpoints", "llama", "one_quiet_torch_thread", "reference"]


@pytest.fixture(scope="session")
def llama(checkpoints: Checkpoints) -> Path:
    """The checkpoint that most of these tests use."""
    return checkpoints("llama")


@pytest.fixture(scope="session")
def reference(llama: Path) -> list[int]:
    """32 greedy tokens after PROMPT, by transformers."""
    return generate_greedy(load_whole(llama), PROMPT, 32)


@pytest.fixture(scope="session")
def library_without_amx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels' library once more: whether AMX is used is settled once for each file that is loaded."""
    copy = tmp_path_factory.mktemp("kernels") / "kernels.so"
    shutil.copyfile(build(default_folder()), copy)
    return copy


@pytest.fixture(scope="session")
def without_amx(library_without_amx: Path) -> Kernels:
    """The kernels as most processors have them."""
    return Kernels(library_without_amx, amx=False)


@pytest.fixture(scope="session")
def int8_without_amx(without_amx: Kernels, library_without_amx: Path) -> Int8Kernel | None:
    """None where the processor can't."""
    assert not without_amx.has_amx
    function = getattr(ctypes.CDLL(str(library_without_amx)), "osai_linear_int8_bf16", None)
    return None if function is None else Int8Kernel(function, has_amx=False)
