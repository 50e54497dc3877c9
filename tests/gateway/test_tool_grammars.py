"""The grammars of tool calls, as the tail's library enforces them: a model of any weights can only call well."""

import json
import random
from functools import cache
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from osai.coordinator.tool_calls.calls import CallRule, OfferedTool, ParsedCall
from osai.coordinator.tool_calls.formats import FORMATS
from osai.coordinator.tool_calls.style import ToolStyle
from osai.core.errors import InvalidRequestError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "unit": {"enum": ["°C", "F"]},
        "days": {"$ref": "#/$defs/days"},
        "exact": {"type": "boolean"},
        "where": {"type": "object", "properties": {"x": {"type": "null"}}, "required": ["x"],
                  "additionalProperties": False},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["unit", "where"],
    "additionalProperties": False,
    "$defs": {"days": {"anyOf": [{"type": "null"}, {"enum": [1, 2.5]}]}},
}  # fmt: skip
TOOLS = (OfferedTool(name="weather", schema=SCHEMA), OfferedTool(name="now", schema={}))
CLOSED = (TOOLS[0], OfferedTool(name="now", schema={"type": "object", "properties": {}, "additionalProperties": False}))
MARKS = sorted({mark for one in FORMATS.values() for mark in one.marks})


@cache
def tokenizer(*, with_tokens: bool) -> Tokenizer:
    """Bytes, and every format's marks as tokens, or not."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=260, special_tokens=["<pad>", "</s>"], show_progress=False, initial_alphabet=alphabet
    )
    made.train_from_iterator(["a"], trainer)
    if with_tokens:
        made.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    return made


@cache
def library_tokenizer(*, with_tokens: bool) -> LLTokenizer:
    return LLTokenizer(tokenizer(with_tokens=with_tokens).to_str(), eos_token=1)


def style(name: str, *, with_tokens: bool) -> ToolStyle:
    found = [(mark, tokenizer(with_tokens=with_tokens).token_to_id(mark)) for mark in FORMATS[name].marks]
    return ToolStyle(format=name, tokens=tuple((mark, token) for mark, token in found if token is not None))


def grammar(name: str, *, with_tokens: bool, required: bool = True, parallel: bool = True, answer: str = "") -> str:
    rule = CallRule(tools=CLOSED, required=required, parallel=parallel, answer=answer)
    return FORMATS[name].grammar(rule, style(name, with_tokens=with_tokens))


def allows(grammar: str, text: str, *, with_tokens: bool) -> bool:
    """Whether the whole text is a sentence of the grammar."""
    matcher = LLMatcher(library_tokenizer(with_tokens=with_tokens), grammar)
    assert not matcher.get_error()
    ids = tokenizer(with_tokens=with_tokens).encode(text).ids
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def generated(grammar: str, seed: int, *, with_tokens: bool, max_tokens: int = 3000) -> str:
    """What a model of random weights writes under a grammar; it ends as soon as it may."""
    drawn = random.Random(seed)
    matcher = LLMatcher(library_tokenizer(with_tokens=with_tokens), grammar)
    assert not matcher.get_error(), matcher.get_error()
    ids: list[int] = []
    while len(ids) < max_tokens and not matcher.is_stopped():
        mask = matcher.compute_bitmask()
        allowed = [i for i in range(8 * len(mask)) if mask[i // 8] >> (i % 8) & 1]
        if matcher.is_accepting() or not allowed:
            break
        ids.append(drawn.choice(allowed))
        assert matcher.consume_token(ids[-1])
    assert matcher.is_accepting()
    return str(tokenizer(with_tokens=with_tokens).decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize("with_tokens", [True, False])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_whatever_the_weights_required_calls_are_well_formed(name: str, *, with_tokens: bool) -> None:
    schemas = {tool.name: tool.schema for tool in CLOSED}
    for seed in range(12):
        text = generated(grammar(name, with_tokens=with_tokens), seed, with_tokens=with_tokens)
        parser = FORMATS[name].parser(frozenset(schemas))
        pieces = parser.add(text) + parser.finish()
        assert pieces, text
        for piece in pieces:
            assert isinstance(piece, ParsedCall), text
            jsonschema.validate(json.loads(piece.arguments), schemas[piece.name])


CALL = {
    "hermes": ('<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', "\n"),
    "falcon": ('<tool_call>\n[{"name": "now", "arguments": {}}]\n</tool_call>', None),
    "llama_json": ('{"name": "now", "parameters": {}}', "; "),
    "pythonic": ("[now()]", None),
    "mistral": ('[TOOL_CALLS][{"name": "now", "arguments": {}}]', None),
    "function_gemma": ("<start_function_call>call:now{}<end_function_call>", ""),
    "gemma": ("<|tool_call>call:now{}<tool_call|>", ""),
}


@pytest.mark.parametrize("with_tokens", [True, False])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_required_call_is_all_there_is(name: str, *, with_tokens: bool) -> None:
    call, between = CALL[name]
    if name == "mistral" and with_tokens:
        call, between = "[TOOL_CALLS]now[ARGS]{}", ""
    required = grammar(name, with_tokens=with_tokens)
    alone = grammar(name, with_tokens=with_tokens, parallel=False)
    assert allows(required, call, with_tokens=with_tokens)
    assert allows(alone, call, with_tokens=with_tokens)
    assert not allows(required, "Hello.", with_tokens=with_tokens)
    assert not allows(required, call.replace("now", "never"), with_tokens=with_tokens)
    if between is not None:
        assert allows(required, call + between + call, with_tokens=with_tokens)
        assert not allows(alone, call + between + call, with_tokens=with_tokens)


@pytest.mark.parametrize("with_tokens", [True, False])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_call_that_is_free_may_be_text_but_no_wrong_call(name: str, *, with_tokens: bool) -> None:
    call, _ = CALL[name]
    if name == "mistral" and with_tokens:
        call = "[TOOL_CALLS]now[ARGS]{}"
    free = grammar(name, with_tokens=with_tokens, required=False)
    texts = ["", "Hello, <b>you</b> with (it) at 5 < 6 & [TOOL", call]
    assert [text for text in texts if not allows(free, text, with_tokens=with_tokens)] == []
    assert not allows(free, call.replace("now", "never"), with_tokens=with_tokens)
    if name not in {"llama_json", "pythonic"}:  # whose calls have no mark
        assert allows(free, f"So: {call}", with_tokens=with_tokens)
        assert not allows(free, f"So: {call}".replace("now", "never"), with_tokens=with_tokens)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_answer_s_own_form_and_calls_go_together(name: str) -> None:
    both = grammar(name, with_tokens=False, required=False, answer='%json {"type": "integer"}')
    assert allows(both, "17", with_tokens=False)
    assert allows(both, CALL[name][0], with_tokens=False)
    assert not allows(both, "seventeen", with_tokens=False)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}, "pattern"),
        ({"type": "object", "properties": {"a": {}}}, "None"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}, "b"),
        ({"type": "object", "properties": {"a": 5}}, "5"),
        ({"type": "object", "properties": []}, "properties"),
        ({"type": "object", "required": ["a"]}, "'a'"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}}, "deep|rules"),
        ({"$ref": "#"}, "deep"),
    ],
)
@pytest.mark.parametrize("name", ["pythonic", "gemma"])
def test_a_schema_that_the_format_cannot_enforce_is_refused(name: str, schema: dict[str, Any], told: str) -> None:
    rule = CallRule(tools=(OfferedTool(name="f", schema=schema),), required=True, parallel=False)
    with pytest.raises(InvalidRequestError, match=told):
        FORMATS[name].grammar(rule, ToolStyle(format=name))


@pytest.mark.parametrize(("more", "allowed"), [({}, False), ({"additionalProperties": True}, True)])
def test_arguments_that_a_tool_does_not_name_are_made_only_where_it_says_so(
    more: dict[str, Any], *, allowed: bool
) -> None:
    tool = OfferedTool(name="f", schema={"type": "object", "properties": {"a": {"type": "integer"}}, **more})
    made = FORMATS["llama_json"].grammar(
        CallRule(tools=(tool,), required=True, parallel=False), style("llama_json", with_tokens=False)
    )
    assert allows(made, '{"name": "f", "parameters": {"a": 1}}', with_tokens=False)
    assert allows(made, '{"name": "f", "parameters": {"a": 1, "b": 2}}', with_tokens=False) is allowed
