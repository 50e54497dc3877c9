"""Log lines as text and as JSON."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hivemind.utils.logging import use_hivemind_log_handler
from hypothesis import given
from hypothesis import strategies as st

from osai.core.library_logs import adopt_library_logs
from osai.core.logs import FORMAT, JsonFormatter, StderrHandler


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream, handler = io.StringIO(), logging.StreamHandler()
    handler.setStream(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("osai.tested")
    logger.addHandler(handler)
    logger.propagate, level = False, logger.level
    logger.setLevel(logging.DEBUG)
    yield stream
    logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(level)


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_an_object_with_time_level_logger_message_and_its_fields(written: io.StringIO) -> None:
    log = logging.getLogger("osai.tested")
    log.info("%d of %s", 3, "ten", extra={"num_sessions": 3, "where": ["a", "b"]})
    log.warning("odd", extra={"path": io.StringIO, "level": "not mine"})
    first, second = lines_of(written)
    at = datetime.fromisoformat(first.pop("time"))
    assert at.utcoffset() == timedelta(0)
    assert first == {
        "level": "info", "logger": "osai.tested", "message": "3 of ten", "num_sessions": 3, "where": ["a", "b"],
    }  # fmt: skip
    assert (second["level"], second["path"]) == ("warning", "<class '_io.StringIO'>")


def test_an_exception_stays_on_its_line(written: io.StringIO) -> None:
    try:
        int("of two\nlines")
    except ValueError:
        logging.getLogger("osai.tested").exception("it failed")
    (line,) = lines_of(written)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("'of two\\nlines'")


@given(message=st.text(), field=st.text())
def test_whatever_is_said_is_one_line(message: str, field: str) -> None:
    record = logging.makeLogRecord({"msg": message, "name": "osai.tested", "levelname": "INFO", "field": field})
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert json.loads(text)["message"] == message
    assert json.loads(text)["field"] == field


def test_lines_go_to_whatever_standard_error_is_just_then(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, above = StderrHandler(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", above)
    handler.emit(logging.makeLogRecord({"msg": "above the live line"}))
    assert above.getvalue() == "above the live line\n"


def test_what_hivemind_says_comes_by_our_handler(caplog: pytest.LogCaptureFixture) -> None:
    adopt_library_logs()
    try:
        logging.getLogger("hivemind.dht").warning("theirs")
        logging.getLogger("hivemind.dht").info("too fine")
        assert {record.getMessage() for record in caplog.records} == {"theirs"}
        line = json.loads(JsonFormatter().format(caplog.records[0]))
        assert (line["message"], line["level"]) == ("theirs", "warning")  # whose name hivemind has changed
    finally:
        use_hivemind_log_handler("in_hivemind")


def test_a_program_logs_in_the_form_that_it_is_told() -> None:
    program = (
        "import logging, warnings; from osai.core.logs import configure_logs; configure_logs('info', 'json'); "
        "logging.getLogger('osai.a').info('ours'); logging.getLogger('osai.a').debug('too fine'); "
        "logging.getLogger('httpx').info('too fine'); warnings.warn('of Python', stacklevel=1)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in run.stderr.splitlines()]
    assert [(line["logger"], line["level"]) for line in found] == [("osai.a", "info"), ("py.warnings", "warning")]


def test_text_is_as_it_always_was() -> None:
    record = logging.makeLogRecord({"msg": "ours", "name": "osai.a", "levelname": "INFO"})
    assert logging.Formatter(FORMAT).format(record).endswith(" INFO    osai.a: ours")
