"""What becomes of one parameter, and how that is seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from osai.coordinator.api import EmbeddingRequest, GenerationRequest

Json = dict[str, Any]
Status = Literal["honoured", "honoured in part", "label", "refused"]
Asked = GenerationRequest | EmbeddingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a request came to: what the coordinator was asked, and the answer's text."""

    asked: Sequence[Asked]
    text: str

    @property
    def request(self) -> GenerationRequest:
        """The first of those asked."""
        request = self.asked[0]
        assert isinstance(request, GenerationRequest)
        return request


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One parameter.

    Attributes:
        status: "label": accepted, and nothing hangs on it.
        note: what the table says.
        sent: bodies' further parameters that are taken.
        seen: whether such a request shows the effect.
        refused: values that get a 400 which names the parameter, or the path behind it.
    """

    status: Status
    note: str = ""
    sent: Json = field(default_factory=dict)
    seen: Callable[[Seen], bool] = lambda _seen: False
    refused: tuple[Any, ...] = ()


def honoured(sent: Json, seen: Callable[[Seen], bool], note: str = "", *, refused: tuple[Any, ...] = ()) -> Row:
    """A parameter that does what it says; in part, if some values are refused."""
    return Row(status="honoured in part" if refused else "honoured", note=note, sent=sent, seen=seen, refused=refused)


def label(value: object, note: str = "nothing is kept of it") -> Row:
    """A parameter that is accepted, and changes no answer."""
    return Row(status="label", note=note, sent={"": value})


def refused(*values: object, note: str = "") -> Row:
    """A parameter that gets a 400."""
    return Row(status="refused", note=note, refused=values)
