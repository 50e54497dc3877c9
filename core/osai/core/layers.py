"""Decoder-layer ranges, always half-open."""

from dataclasses import dataclass
from typing import Self

from osai.core.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, order=True)
class LayerRange:
    """Decoder layers [start, end).

    Raises:
        InvalidRequestError: if the range is empty or negative.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise InvalidRequestError(f"layer range {self.start}:{self.end} is empty or negative; write START:END")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `START:END`, as in `0:8`.

        Raises:
            InvalidRequestError: if the text has another form.
        """
        start, colon, end = text.partition(":")
        if not colon or not start.isdecimal() or not end.isdecimal():
            raise InvalidRequestError(f"{text!r} is no layer range; write START:END, as in 0:8")
        return cls(int(start), int(end))

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"

    def __len__(self) -> int:
        return self.end - self.start

    def __contains__(self, layer: int) -> bool:
        return self.start <= layer < self.end

    def check_within(self, num_layers: int) -> None:
        """Refuse a range that reaches past a model's last layer.

        Raises:
            InvalidRequestError: if `end` exceeds `num_layers`.
        """
        if self.end > num_layers:
            raise InvalidRequestError(f"layers {self} reach past the model's {num_layers} layers")
