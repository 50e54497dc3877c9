"""Numbers and names as the health page words them. Pure."""

from collections.abc import Sequence
from math import isfinite

from osai.coordinator.health.strip import Run

MAX_TEXT = 48  # characters of a name that a node or a publisher chose
MAX_WORD = 16  # of a state or a dtype; `bfloat16+int8` is shown whole
MAX_VERSION = 24  # of a program's name and version, which stay on one line
MAX_FAILURE = 120  # of a failure's message
NONE = "\u2013"  # a dash
_TWO_DIGITS = 9.95
MAX_LISTED = 12  # items of a list that are named, the others counted


def shortened(text: str, most: int = MAX_TEXT) -> str:
    """The text, its end cut off visibly where it is too long."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def duration(seconds: float) -> str:
    """A span of time in its two largest units; a number and its unit stay on one line."""
    if not isfinite(seconds) or seconds < 0:
        return "unknown"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days}\u00a0d {hours % 24}\u00a0h"
    if hours:
        return f"{hours}\u00a0h {minutes % 60}\u00a0min"
    return f"{minutes}\u00a0min" if minutes else f"{int(seconds)}\u00a0s"


def memory_size(num_bytes: int) -> str:
    """Bytes in GB, to one decimal."""
    return f"{num_bytes / 1e9:.1f}".removesuffix(".0") + "\u00a0GB"


def replicas_in_words(run: Run) -> str:
    """A run of layers with its number of nodes, as in `0:8 on 2`."""
    return f"{run.layers} on {run.replicas}" if run.replicas else f"{run.layers} on none"


def listed(items: Sequence[object]) -> str:
    """The items with commas, the ones past MAX_LISTED counted."""
    named = ", ".join(str(item) for item in items[:MAX_LISTED])
    return f"{named} and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else named


def latency(seconds: float | None) -> str:
    """A short time, in ms or s; a dash where there is none."""
    if seconds is None:
        return NONE
    return f"{_short(seconds)}\u00a0s" if seconds >= 1 else f"{_short(seconds * 1e3)}\u00a0ms"


def amount(number: float) -> str:
    """A count, in thousands, millions or billions where it is large."""
    for least, unit, size in ((1e9, "G", 1e9), (1e6, "M", 1e6), (1e4, "k", 1e3)):
        if number >= least:
            return f"{_short(number / size)}\u00a0{unit}"
    return f"{number:,.0f}"


def rate(per_s: float) -> str:
    """Tokens a second."""
    return _short(per_s) if per_s else "0"


def energy(joules: float | None) -> str:
    """Energy of a token; a dash where there is no estimate."""
    return NONE if joules is None else f"{_short(joules)}\u00a0J"


def _short(number: float) -> str:
    """With one digit after the point where it has one before it."""
    return f"{number:.1f}" if number < _TWO_DIGITS else f"{number:,.0f}"
