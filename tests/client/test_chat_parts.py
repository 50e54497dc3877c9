"""The parts of a chat that need no terminal."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcwidth

from osai.client import Stage, Timings
from osai.client.chat.conversation import Conversation
from osai.client.chat.history_file import MAX_HISTORY_BYTES, prepare
from osai.client.chat.orders import COMMANDS, Order, completions, help_text, parse
from osai.client.chat.screen import ERASE, RESTORE, SAVE, Screen
from osai.client.chat.tally import Clock, Taken, Tally, figures
from osai.core.errors import InvalidRequestError
from osai.core.layers import LayerRange

NUM_COLUMNS = 20


@pytest.mark.parametrize(
    ("line", "order"),
    [
        ("what is /etc?", None),
        (" /etc/passwd: what is it?", None),
        ("/help", Order(name="help")),
        ("/model", Order(name="model")),
        ("/model  acme/whole ", Order(name="model", argument="acme/whole")),
        ("/system be brief, and kind", Order(name="system", argument="be brief, and kind")),
        ("/exit", Order(name="quit")),
        ("/reset", Order(name="clear")),
    ],
)
def test_lines_are_read(line: str, order: Order | None) -> None:
    assert parse(line) == order


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/etc/passwd", "there is no command /etc/passwd: /help lists them"),
        ("/temperature", "write it as /temperature X"),
        ("/save", "write it as /save FILE"),
        ("/stats now", "write it as /stats"),
    ],
)
def test_wrong_commands_are_told(line: str, told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told):
        parse(line)


def test_help_names_every_command() -> None:
    assert all(f"/{command.name}" in help_text() and command.help in help_text() for command in COMMANDS)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/s", ("/system", "/seed", "/stats", "/save")),
        ("/model acme/", ("acme/whole", "acme/gap")),
        ("/model x", ()),
        ("/save acme/", ()),
        ("s", ()),
        ("a question\n/s", ()),
    ],
)
def test_commands_and_models_are_completed_and_questions_are_not(line: str, words: tuple[str, ...]) -> None:
    assert completions(line, ("acme/whole", "acme/gap")) == words


def test_what_was_said_is_written_for_people_and_for_programs() -> None:
    it = Conversation({}, "be kind")
    it.keep("wh\u00e4t?", "this")
    it.system = ""
    assert it.as_markdown() == "## user\n\nwh\u00e4t?\n\n## assistant\n\nthis\n"
    assert json.loads(it.as_json()) == [
        {"role": "user", "content": "wh\u00e4t?"},
        {"role": "assistant", "content": "this"},
    ]
    it.clear()
    assert it.messages == []


def taken(**fields: object) -> Taken:
    values = {
        "num_tokens": 3,
        "num_prompt_tokens": 8,
        "timings": Timings(ttft_s=0.5, decode_tokens_per_s=20.0),
        "finish_reason": "stop",
        "pipeline": (Stage(node_id="n1", address="a:1", span=LayerRange(0, 2)),),
        **fields,
    }
    return Taken(**values)  # type: ignore[arg-type]


def test_figures_say_what_went_on() -> None:
    assert figures(taken()) == "3 tokens \N{MIDDLE DOT} 20.0 tokens/s \N{MIDDLE DOT} first after 0.50 s"
    assert figures(taken(num_tokens=1)).startswith("1 token \N{MIDDLE DOT}")
    assert figures(taken(num_recoveries=1)).endswith("recovered once")
    assert figures(taken(num_recoveries=2, finish_reason=None)).endswith("recovered 2 times \N{MIDDLE DOT} stopped")
    assert figures(taken(finish_reason="length")).endswith("allow more with --max-tokens")


def test_all_answers_are_told_together() -> None:
    tally = Tally()
    assert tally.lines() == ["nothing was answered yet"]
    for rate in (10.0, 30.0, 20.0):
        tally.add(taken(timings=Timings(ttft_s=1.0, decode_tokens_per_s=rate), num_recoveries=1))
    told = "\n".join(tally.lines())
    assert "answers      3\ntokens       9 generated; the last prompt had 8\ntokens/s     20.0 (median)" in told
    assert "recoveries   3\nserved by    n1 [0:2]" in told


def test_a_stopped_answer_is_timed_as_it_was_seen() -> None:
    clock = Clock(100.0)
    assert clock.timings() == Timings(ttft_s=0.0, decode_tokens_per_s=0.0)
    for now_s in (102.0, 102.5, 103.0):
        clock.came(1, now_s)
    clock.came(0, 110.0)
    assert clock.timings() == Timings(ttft_s=2.0, decode_tokens_per_s=2.0)


def screen() -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    return Screen(out, lambda: NUM_COLUMNS), out


def test_a_note_is_taken_back_before_the_text_goes_on() -> None:
    it, out = screen()
    it.text("abc")
    it.note("a long note that does not fit", "short")
    it.text("d")
    it.end()
    assert out.getvalue() == f"abc{SAVE} \x1b[2mshort\x1b[0m{RESTORE}{ERASE}d\n"


def test_an_empty_answer_ends_no_line() -> None:
    it, out = screen()
    it.note("short")
    it.end()
    assert "\n" not in out.getvalue()


def column_after(text: str) -> int:
    """Where a terminal's cursor stands, in cells; NUM_COLUMNS after a full line that has not wrapped yet."""
    column = 0
    for character in text:
        if character == "\n":
            column = 0
            continue
        cells = 8 - column % 8 if character == "\t" else max(0, wcwidth(character))
        column = column + cells if column + cells <= NUM_COLUMNS else cells
    return column


@given(st.lists(st.text(alphabet="ab \t\n\u4e16\u0301\U0001f600", max_size=30), max_size=6))
def test_a_note_never_reaches_the_next_line(parts: list[str]) -> None:
    it, out = screen()
    for i, part in enumerate(parts):
        it.text(part)
        begun = len(out.getvalue())
        it.note("a rather long note", "note", ".")
        shown = out.getvalue()[begun:]
        column = column_after("".join(parts[: i + 1]))
        assert (SAVE in shown) == (column + len(" .") < NUM_COLUMNS)
        if SAVE in shown:
            words = shown.split("\x1b[2m")[1].split("\x1b[0m")[0]
            assert column + 1 + len(words) < NUM_COLUMNS


def test_the_history_stays_small_and_whole(tmp_path: Path) -> None:
    file = tmp_path / "state" / "history"
    entry = "\n# 2026-11-28 12:00:00.000000\n+what is this?\n+\u00e4 second line\n"
    prepare(file)
    file.write_text(entry * (MAX_HISTORY_BYTES // len(entry) + 1), encoding="utf-8")
    prepare(file)
    kept = file.read_text(encoding="utf-8")
    assert MAX_HISTORY_BYTES // 3 < len(kept) <= MAX_HISTORY_BYTES // 2
    assert kept == entry * (len(kept) // len(entry))
    assert file.stat().st_mode & 0o777 == 0o600
    prepare(file)
    assert file.read_text(encoding="utf-8") == kept
