"""Takes addresses out of what strangers wrote: the page tells of no machine where it is. Pure."""

import re

ADDRESS = "[address]"
# also as host names have it (ip-10-0-0-7); what looks like one, and is none, is no loss
_IPV4 = re.compile(r"[0-9]{1,3}(?:[.-][0-9]{1,3}){3}")
_IPV6_RUN = re.compile(
    r"[0-9A-Fa-f:.]+"
)  # each is looked at once: texts of strangers must not cost more than their length
_IPV6_COLONS = 5  # at least, where none is left out


def redacted(text: str) -> str:
    """The text without its IP addresses."""
    if ":" in text:
        text = _IPV6_RUN.sub(lambda run: ADDRESS if _is_ipv6(run[0]) else run[0], text)
    return _IPV4.sub(ADDRESS, text)


def _is_ipv6(run: str) -> bool:
    return "::" in run or run.count(":") >= _IPV6_COLONS
