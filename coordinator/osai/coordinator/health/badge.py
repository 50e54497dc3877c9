"""A model's badge: a small SVG picture for other pages. Pure."""

from html import escape

from osai.coordinator.api import ModelView
from osai.coordinator.health.wording import shortened

MAX_NAME = 40
_CHAR_PX = 6.7  # of Verdana at 11 px, about: `textLength` makes it exact
_PAD_PX = 16
_COLOURS = {"served": "#17693c", "degraded": "#8a5200", "down": "#a3201c", "unknown": "#5a6270"}
# fits in any page: no script, no style, no address
_SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{name}: {state}">
<title>{name}: {state}</title>
<clipPath id="r"><rect width="{width}" height="20" rx="4"/></clipPath>
<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#33393f"/>
<rect x="{left}" width="{right}" height="20" fill="{colour}"/></g>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="{left_middle:g}" y="14" textLength="{left_text:g}" lengthAdjust="spacingAndGlyphs">{name}</text>
<text x="{right_middle:g}" y="14" textLength="{right_text:g}" lengthAdjust="spacingAndGlyphs">{state}</text></g>
</svg>
"""


def state_of(model: ModelView) -> str:
    """How a model is: "served", "degraded" (served, and one departure can end that) or "down"."""
    if not model.covered:
        return "down"
    return "degraded" if min(model.replicas, default=0) < 2 else "served"  # noqa: PLR2004 - a node and its replica


def badge_svg(model_id: str, state: str) -> str:
    """The picture. `state`: as of `state_of`, or "unknown"."""
    name = shortened("".join(char if char.isprintable() else "?" for char in model_id), MAX_NAME)
    left_text, right_text = len(name) * _CHAR_PX, len(state) * _CHAR_PX
    left, right = round(left_text) + _PAD_PX, round(right_text) + _PAD_PX
    return _SVG.format(
        name=escape(name),
        state=escape(state),
        colour=_COLOURS[state],
        width=left + right,
        left=left,
        right=right,
        left_middle=left / 2,
        right_middle=left + right / 2,
        left_text=left_text,
        right_text=right_text,
    )
