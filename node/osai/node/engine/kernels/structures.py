"""The structures of kernels.h."""

import ctypes
from collections.abc import Iterator

_POINTER, _SIZE, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_float


def _fields(kind: type, names: str) -> Iterator[tuple[str, type]]:
    return ((name, kind) for name in names.split())


class Attention(ctypes.Structure):
    """`attention_args`."""

    _fields_ = (
        *_fields(_POINTER, "query keys values out slots begins ends sinks scratch"),
        *_fields(_SIZE, "num_rows num_heads num_kv_heads dim value_dim query_stride max_keys"),
        *_fields(_FLOAT, "scaling softcap"),
        ("num_threads", _INT),
    )


class Linear(ctypes.Structure):
    """`linear_weights`."""

    _fields_ = (*_fields(_POINTER, "panels bias"), *_fields(_SIZE, "out_features in_features"))


class Norm(ctypes.Structure):
    """`norm_weights`."""

    _fields_ = (("weight", _POINTER), *_fields(_FLOAT, "eps offset"), ("rounds_first", _INT))


class LayerWeights(ctypes.Structure):
    """`layer_weights`."""

    _fields_ = (
        *_fields(Norm, "norm_before query_norm key_norm norm_between"),
        *_fields(Linear, "qkv o gate_up down"),
    )


class LayerArgs(ctypes.Structure):
    """`layer_args`."""

    _fields_ = (
        ("attention", Attention),
        *_fields(_POINTER, "hidden normed wide mixed tiles cos sin slots"),
        *_fields(_SIZE, "num_rows half"),
        ("num_threads", _INT),
    )
