"""What a token costs in energy: an estimate, its assumptions in docs/health.md. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

CPU_CORE_W = 8
CPU_LEAST_W, CPU_MOST_W = 15, 360
OTHER_GPU_W = 300
_CPU = re.compile(r"\bcpu\b.*?(?:([0-9]{1,4}) cores)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceClass:
    """A kind of device, by a word of its name, and the watts that its maker says it may draw."""

    word: str
    watts: int


# The first that fits counts. Sources: docs/health.md.
DEVICE_CLASSES = tuple(
    DeviceClass(word=word, watts=watts)
    for word, watts in (
        ("B200", 1000), ("H200", 700), ("H100 PCIe", 350), ("H100 NVL", 400), ("H100", 700),
        ("A100-PCIE", 300), ("A100 80GB PCIe", 300), ("A100", 400), ("V100", 300),
        ("L40S", 350), ("L40", 300), ("L4", 72), ("A40", 300), ("A10", 150), ("T4", 70),
        ("RTX A6000", 300), ("RTX 6000 Ada", 300),
        ("5090", 575), ("5080", 360), ("4090", 450), ("4080", 320), ("4070", 200), ("3090", 350), ("3080", 320),
        ("3070", 220), ("3060", 170),
    )
)  # fmt: skip


def watts_of(device: str) -> int:
    """The watts that a device draws while it works, by its name."""
    if match := _CPU.search(device):
        num_cores = int(match[1] or 0)
        return min(max(num_cores * CPU_CORE_W, CPU_LEAST_W), CPU_MOST_W)
    return next((one.watts for one in DEVICE_CLASSES if one.word in device), OTHER_GPU_W)


def joules_a_token(token_s: float | None, hosts: Sequence[tuple[str, int]]) -> float | None:
    """The estimate; None where nothing was measured, or nobody hosts the model.

    One device of a pipeline works on a session's token at a time, for as long as it hosts a share of the layers. So it
    is the time of a token, times the watts of the hosts, weighted by their layers. Tokens of other sessions that share
    a step make it less; what waiting devices draw is not in it.

    Args:
        token_s: the median time between two tokens.
        hosts: name of the device and number of layers of each ready span.
    """
    num_layers = sum(layers for _, layers in hosts)
    if token_s is None or not num_layers:
        return None
    return token_s * sum(watts_of(device) * layers for device, layers in hosts) / num_layers
