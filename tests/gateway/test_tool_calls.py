"""Tool calls as each family of models writes them, read from text that comes in any pieces."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from osai.coordinator.tool_calls.calls import CallParser, ParsedCall, Piece
from osai.coordinator.tool_calls.formats import FORMATS, style_of

NAMES = frozenset({"weather", "now"})
ROME = ParsedCall(name="weather", arguments='{"city": "Rome", "days": 2}')
NOW = ParsedCall(name="now", arguments="{}")
ESC, ESC4 = "<escape>", '<|"|>'
PYTHON_JSON = '{"name": "weather", "parameters": {"city": "Rome", "days": 2}}'
HERMES_JSON = '{"name": "weather", "arguments": {"city": "Rome", "days": 2}}'
HERMES = f"<tool_call>\n{HERMES_JSON}\n</tool_call>"
HERMES_NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'

CALLED: list[tuple[str, str, list[Piece]]] = [
    ("hermes", HERMES, [ROME]),
    ("hermes", f"I look.\n{HERMES}\n{HERMES_NOW}\n", ["I look.", ROME, NOW]),
    ("hermes", f"<tool_call>{HERMES_JSON}", [ROME]),  # the closing mark never came
    ("hermes", f"<tool_call>[{HERMES_JSON}]</tool_call> done", [ROME, " done"]),
    ("falcon", f"<tool_call>\n[{HERMES_JSON}, {HERMES_JSON}]\n</tool_call>", [ROME, ROME]),
    ("llama_json", PYTHON_JSON, [ROME]),
    ("llama_json", f"<|python_tag|>{PYTHON_JSON}; {PYTHON_JSON}", [ROME, ROME]),
    ("llama_json", f"<|python_start|>{PYTHON_JSON}<|python_end|>", [ROME]),
    ("llama_json", '\n {"name": "now", "arguments": {}} ', [NOW]),
    ("pythonic", '[weather(city="Rome", days=2)]', [ROME]),
    ("pythonic", "<|python_start|>[weather(city='Rome', days=2), now()]<|python_end|>", [ROME, NOW]),
    ("mistral", f"[TOOL_CALLS][{HERMES_JSON}]", [ROME]),
    ("mistral", f"[TOOL_CALLS] [{HERMES_JSON}, {HERMES_JSON}]", [ROME, ROME]),
    ("mistral", 'Yes.[TOOL_CALLS]weather[ARGS]{"city": "Rome", "days": 2}[TOOL_CALLS]now{}', ["Yes.", ROME, NOW]),
    ("function_gemma", f"<start_function_call>call:weather{{city:{ESC}Rome{ESC},days:2}}<end_function_call>", [ROME]),
    ("gemma", f"<|tool_call>call:weather{{city:{ESC4}Rome{ESC4},days:2}}<tool_call|>", [ROME]),
    ("gemma", "<|tool_call>call:now{}<tool_call|><|tool_call>call:now{}<tool_call|>", [NOW, NOW]),
]
PLAIN = [
    ("hermes", "Just text, with < and <tool and <tool_calls> in it."),
    ("hermes", '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "weather", "arguments": {"a": NaN}}\n</tool_call>'),
    ("hermes", '<tool_call>{"name": "weather"'),
    ("hermes", "<tool_call>" + "[" * 3000 + "</tool_call>"),
    ("falcon", "<tool_call>\n[]\n</tool_call>"),
    ("llama_json", "The weather is {fine}."),
    ("llama_json", '{"answer": 42}'),
    ("llama_json", '{"name": "weather", "parameters": "x"} and more'),
    ("llama_json", '{"name": "weather", "parameters": {'),
    ("llama_json", "  <|python"),
    ("pythonic", "[1, 2, 3]"),
    ("pythonic", "[weather(1)]"),
    ("pythonic", "[weather(city=f())]"),
    ("pythonic", "[weather(city={1, 2})]"),
    ("pythonic", "[weather(city=" + "-" * 5000 + "1)]"),
    ("pythonic", "[weather(city='Rome'"),
    ("mistral", "[TOOL_CALLS]"),
    ("mistral", "[TOOL_CALLS]weather[ARGS]{oops}"),
    ("gemma", "<|tool_call>call:weather{city}<tool_call|>"),
    ("gemma", f"<|tool_call>call:weather{{city:{ESC4}Rome{ESC4}<tool_call|>"),
    ("function_gemma", "<start_function_call>call:weather" + "{a:" * 100 + "<end_function_call>"),
]


def read(parser: CallParser, pieces: Sequence[str]) -> list[Piece]:
    """What a parser gives, neighbouring texts joined."""
    given = [piece for text in pieces for piece in parser.add(text)] + parser.finish()
    joined: list[Piece] = []
    for piece in given:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


@pytest.mark.parametrize("size", [1, 3, 7, 10_000])
@pytest.mark.parametrize(("name", "text", "pieces"), CALLED)
def test_calls_are_read_however_the_text_is_cut(name: str, text: str, pieces: list[Piece], size: int) -> None:
    cut = [text[i : i + size] for i in range(0, len(text), size)]
    assert read(FORMATS[name].parser(NAMES), cut) == pieces


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize(("name", "text"), PLAIN)
def test_what_is_no_well_formed_call_of_a_known_tool_stays_text(name: str, text: str, size: int) -> None:
    cut = [text[i : i + size] for i in range(0, len(text), size)]
    assert read(FORMATS[name].parser(NAMES), cut) == [text]


ATOMS = st.sampled_from(
    ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "{", "}", "[", "]", "(", ")", "weather",
     '"', "'", "\\", ",", ":", ";", "=", " ", "\n", "<", "<|", "call:", ESC, ESC4, "<|tool_call>", "<tool_call|>",
     '{"name": "weather", "arguments": {}}', "weather()", "<start_function_call>", "<end_function_call>"]
)  # fmt: skip


@settings(max_examples=300)
@given(name=st.sampled_from(sorted(FORMATS)), atoms=st.lists(ATOMS, max_size=12))
@example(name="llama_json", atoms=["{", "}", "}", "x"])
def test_any_text_is_read_the_same_in_one_piece_and_in_many_and_nothing_is_lost(name: str, atoms: list[str]) -> None:
    text = "".join(atoms)
    whole = read(FORMATS[name].parser(NAMES), [text])
    assert read(FORMATS[name].parser(NAMES), list(text)) == whole
    if not any(isinstance(piece, ParsedCall) for piece in whole):
        assert "".join(str(piece) for piece in whole) == text


def test_plain_text_is_given_at_once() -> None:
    for name, one in FORMATS.items():
        assert one.parser(NAMES).add("Hello") == ["Hello"], name


def test_ids_are_drawn_in_the_form_that_the_templates_take() -> None:
    assert FORMATS["hermes"].call_id(lambda _bits: 5).startswith("call_0")
    mistral = FORMATS["mistral"].call_id(lambda bits: 2**bits - 1)
    assert len(mistral) == 9
    assert mistral.isalnum()


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ('{% if tools %}<tool_call>\n{"name": <function-name>}</tool_call>', "hermes"),
        ("{% if tools %}You are a Falcon assistant ... <tool_call>", "falcon"),
        ("{% if tools %}[AVAILABLE_TOOLS]...[TOOL_CALLS]", "mistral"),
        ('{% if tools %}Respond in the format {"name": function name, "parameters": dictionary}', "llama_json"),
        ("{% if tools %}[func_name1(params_name1=params_value1)]", "pythonic"),
        ("{% if tools %}<start_function_call>call:", "function_gemma"),
        ("{% if tools %}<|tool_call>call:", "gemma"),
        ("{% if tools %}<tool_call>\n<function=example>", None),  # Qwen3-Coder's
        ("{% if tools %}{{ tools }}", None),
        ("<tool_call> without a word of what may be called", None),
    ],
)
def test_the_template_tells_the_format(template: str, name: str | None) -> None:
    style = style_of(template, {"<tool_call>": 7, "other": 8})
    assert (style.format if style else None) == name
    if name in {"hermes", "falcon"}:
        assert style is not None
        assert style.tokens == (("<tool_call>", 7),)


def test_arguments_are_json_whatever_the_format() -> None:
    text = "[weather(city=\"R'\\\"ome\", tags=[\"a\", 'b'], more={'x': None, 'y': True}, n=-1.5)]"
    (call,) = read(FORMATS["pythonic"].parser(NAMES), [text])
    assert isinstance(call, ParsedCall)
    assert json.loads(call.arguments) == {
        "city": "R'\"ome",
        "tags": ["a", "b"],
        "more": {"x": None, "y": True},
        "n": -1.5,
    }
