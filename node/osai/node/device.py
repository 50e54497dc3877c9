"""What this machine has: device and memory."""

import logging
import platform
from dataclasses import dataclass

import psutil
import torch

from osai.core.errors import SetupError

log = logging.getLogger(__name__)

CPU_SHARE = 0.6  # of the memory that is free now: the rest is for the system, the page cache and loading
CUDA_SHARE = 0.9  # of a GPU's free memory: the rest is for kernels' workspaces

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device to compute on.

    Attributes:
        spec: as torch names it: "cpu" or "cuda:0".
        description: for people.
        free_bytes: memory that a node may take unless told otherwise.
        capability: compute capability of a GPU.
        has_bfloat16: whether it computes in bfloat16 itself; a GPU that does not would emulate it.
    """

    spec: str
    description: str
    free_bytes: int
    capability: tuple[int, int] | None = None
    has_bfloat16: bool = True

    @property
    def type(self) -> str:
        """`cpu` or `cuda`."""
        return self.spec.partition(":")[0]


def find_device(wanted: str) -> Device:
    """The device `wanted`, or for "auto" the first GPU, else the CPU.

    Raises:
        SetupError: if the machine has no such device.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        cores = psutil.cpu_count(logical=False) or 1
        free = psutil.virtual_memory().available
        description = f"CPU {platform.machine()}, {cores} cores"
        return Device(spec="cpu", description=description, free_bytes=int(free * CPU_SHARE))
    if not wanted.startswith("cuda"):
        raise SetupError(f"{wanted!r} is no device; write cpu, cuda or cuda:N")
    index = int(wanted[5:]) if wanted[5:].isdecimal() else 0
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise SetupError(f"{wanted}: torch sees {torch.cuda.device_count()} GPUs here; use --device cpu")
    free, _ = torch.cuda.mem_get_info(index)
    torch.cuda.set_device(index)  # of which the questions below are
    return Device(
        spec=f"cuda:{index}",
        description=torch.cuda.get_device_name(index),
        free_bytes=int(free * CUDA_SHARE),
        capability=torch.cuda.get_device_capability(index),
        has_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
    )


def choose_dtype(wanted: str, checkpoint_dtype: str) -> torch.dtype:
    """The dtype to run in; "auto" takes the checkpoint's own, or bfloat16 where it names none.

    Raises:
        SetupError: if it is none that a node can run in.
    """
    name = (checkpoint_dtype or "bfloat16") if wanted == "auto" else wanted
    if name not in DTYPES:
        raise SetupError(f"{name!r} is no dtype that a node runs in; use --dtype {', '.join(DTYPES)}")
    return DTYPES[name]


def check_dtype(dtype: torch.dtype, device: Device) -> None:
    """Refuse a dtype that the device can't compute in, and warn of one that it is slow in.

    Raises:
        SetupError: saying which to use.
    """
    if dtype == torch.bfloat16 and not device.has_bfloat16:
        raise SetupError(f"{device.description} has no bfloat16; use --dtype float16 or float32")
    if dtype == torch.float16 and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():  # noqa: SLF001
        log.warning("this CPU has no float16 arithmetic: prompts take several times longer than with --dtype bfloat16")
