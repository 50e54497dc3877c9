"""Times as people read them."""

from datetime import UTC, datetime


def utc(time_s: int) -> str:
    """Seconds since 1970 as a date in UTC."""
    try:
        return datetime.fromtimestamp(time_s, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # a time past the year 9999
        return f"{time_s} s since 1970"
