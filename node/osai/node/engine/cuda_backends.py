"""Which kernels do a layer's attention over KV pages, by measurement of nothing but what they can do."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from osai.node.engine.attention import How
from osai.node.engine.cuda_attention import BackendName, GatheredAttention, PagedAttention, VarlenAttention
from osai.node.engine.cuda_flashinfer import FlashInferAttention
from osai.node.engine.cuda_pages import PagedPlan
from osai.node.engine.windows import Window

_HALVES = (torch.bfloat16, torch.float16)
_FLASH_CAPABILITY = (8, 0)  # Ampere
_FLASHINFER_DIMS = (64, 128, 256)
_FLASH_MAX_DIM = 256
_FLASH_DIM_MULTIPLE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionKind:
    """What decides which kernel can do a layer's attention.

    Attributes:
        device_type: "cuda" or "cpu".
        capability: compute capability of the GPU.
        dtype: of queries, keys and values.
        key_dim: of a head's key.
        value_dim: of a head's value.
        window: which keys a query sees.
        softcap: whether scores are capped.
        sinks: whether heads have sinks.
    """

    device_type: str
    capability: tuple[int, int]
    dtype: torch.dtype
    key_dim: int
    value_dim: int
    window: Window
    softcap: bool = False
    sinks: bool = False


def choose_backend(kind: AttentionKind, *, have_flashinfer: bool) -> BackendName:
    """The first of the three that can do it."""
    fits_flash = (
        kind.device_type == "cuda"
        and kind.capability >= _FLASH_CAPABILITY
        and kind.dtype in _HALVES
        and kind.key_dim == kind.value_dim
        and kind.window.kind != "chunked"
        and not kind.sinks
    )
    if fits_flash and have_flashinfer and kind.key_dim in _FLASHINFER_DIMS:
        return "flashinfer"
    if fits_flash and not kind.softcap and kind.key_dim <= _FLASH_MAX_DIM and kind.key_dim % _FLASH_DIM_MULTIPLE == 0:
        return "varlen"
    return "gathered"


def have_flashinfer() -> bool:
    """Whether FlashInfer is installed."""
    return importlib.util.find_spec("flashinfer") is not None


class PagedBackends:
    """The ways to attend of one span, each made when a layer first needs it.

    Args:
        device: where the pages are.
        capability: its compute capability; (0, 0) for the CPU.
        makers: by name; a name that is missing is never chosen.
    """

    def __init__(
        self,
        device: torch.device,
        capability: tuple[int, int],
        makers: Mapping[BackendName, Callable[[], PagedAttention]],
    ) -> None:
        self._device, self._capability, self._makers = device, capability, makers
        self._chosen: dict[AttentionKind, PagedAttention] = {}
        self._made: dict[BackendName, PagedAttention] = {}

    @property
    def names(self) -> frozenset[BackendName]:
        """Those that are in use."""
        return frozenset(self._made)

    def prepare(self, plan: PagedPlan) -> None:
        """Before a step, or the replay of its graph; see PagedAttention."""
        for backend in self._made.values():
            backend.prepare(plan)

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: PagedPlan, window: Window, how: How
    ) -> torch.Tensor:
        """Attention of a packed step by the kernels that fit; see PagedAttention."""
        kind = AttentionKind(
            device_type=self._device.type,
            capability=self._capability,
            dtype=query.dtype,
            key_dim=keys.shape[-1],
            value_dim=values.shape[-1],
            window=window,
            softcap=how.softcap is not None,
            sinks=how.sinks is not None,
        )
        if kind not in self._chosen:
            name = choose_backend(kind, have_flashinfer="flashinfer" in self._makers)
            self._chosen[kind] = self._made[name] if name in self._made else self._makers[name]()
            self._made[name] = self._chosen[kind]
        return self._chosen[kind].attend(query, keys, values, plan, window, how)


def backends_for(device: torch.device) -> PagedBackends:
    """What there is for a device on this machine."""
    makers: dict[BackendName, Callable[[], PagedAttention]] = {"gathered": GatheredAttention, "varlen": _varlen}
    if device.type == "cuda" and have_flashinfer():
        makers["flashinfer"] = lambda: _flashinfer(device)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    return PagedBackends(device, capability, makers)


def _varlen() -> PagedAttention:
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  registers operators when imported

    return VarlenAttention(varlen_attn)  # type: ignore[arg-type]


def _flashinfer(device: torch.device) -> PagedAttention:
    return FlashInferAttention(importlib.import_module("flashinfer"), device)  # optional, and slow to import
