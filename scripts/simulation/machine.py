"""What a volunteer's machine is like."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a volunteer's machine is like.

    Attributes:
        memory_bytes: what it has.
        told_bytes: what it says that it has.
        num_layers: that it can really hold.
        layer_s: seconds of one layer of a step.
        load_layer_s: seconds to load one.
        num_kv_tokens: that it has room for.
        place: on the map.
    """

    memory_bytes: int
    told_bytes: int
    num_layers: int
    layer_s: float
    load_layer_s: float
    num_kv_tokens: int
    place: tuple[float, float]
