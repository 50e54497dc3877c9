"""The health page as HTML and as words."""

import re
from html import unescape

from osai.coordinator.api import SwarmView
from osai.coordinator.health.page import HealthPage

PAGE = HealthPage()


def html_of(view: SwarmView) -> str:
    return PAGE.html(view, own_url="http://found.example:80/", now_s=1_700_000_000.0)


def text_of(view: SwarmView) -> str:
    """The page's words."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html_of(view))))
