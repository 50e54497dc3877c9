"""Log lines of osai's programs, on standard error: plain text, or one JSON object a line."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

from osai.core.log_floods import FloodFilter

LogFormat = Literal["text", "json"]

LEVELS = ("debug", "info", "warning", "error")
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
QUIET = ("hivemind", "httpx", "huggingface_hub", "opentelemetry", "transformers", "uvicorn.access")
_NOT_FIELDS = {"message", "asctime", "taskName", "color_message"}  # the last is uvicorn's, for terminals
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | _NOT_FIELDS
_NAMES = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time (RFC 3339, UTC), level, logger, message, and the `extra` fields.

    An exception's traceback is in `exception`. What JSON can't hold is written as its text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        line: dict[str, object] = {
            "time": at,
            "level": _NAMES.get(record.levelno) or record.levelname.lower(),  # hivemind renames them
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        line.update((key, value) for key, value in fields.items() if key not in line)
        return json.dumps(line, ensure_ascii=False, default=str)


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is just then: a live display puts itself there, so that lines go above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """Standard error now."""
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        """Nothing to set."""


def configure_logs(level: str, form: LogFormat = "text") -> None:
    """Log from `level` on, one of LEVELS; libraries only from warnings on."""
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "WARNING")  # hivemind sets up its own handler when imported
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    handler = StderrHandler()
    handler.addFilter(FloodFilter())
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    if form == "json":
        logging.captureWarnings(capture=True)  # else Python writes them as text
