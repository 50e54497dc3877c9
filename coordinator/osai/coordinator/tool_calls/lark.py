"""Grammars of tool calls in llguidance's lark. Pure."""

import json
from collections.abc import Mapping, Sequence

from osai.coordinator.tool_calls.calls import CallRule, OfferedTool
from osai.coordinator.tool_calls.style import ToolStyle

# As `json.dumps` writes, and so as chat templates show calls to their models.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_TEXT = "/(?s:.*)/"


def quoted(text: str) -> str:
    """A literal."""
    return json.dumps(text)


def pattern(text: str) -> str:
    """A regular expression for exactly that text."""
    return "".join(ch if ch.isalnum() else rf"\x{{{ord(ch):X}}}" for ch in text)


def mark_of(mark: str, style: ToolStyle) -> str:
    """A mark: the model's token where it has one, for that is how it was taught; the characters otherwise."""
    token = dict(style.tokens).get(mark)
    return quoted(mark) if token is None else f"<[{token}]>"


def json_rule(schema: Mapping[str, object]) -> str:
    """The body of a rule: a JSON value that a schema allows, spaced as `json.dumps` does."""
    return f"%json {json.dumps({**schema, 'x-guidance': _SPACING})}"


def json_object_rules(tools: Sequence[OfferedTool], arguments_key: str) -> list[str]:
    """The rule `call`: a JSON object with a tool's name, and its arguments under `arguments_key`."""
    rules = ["call: " + " | ".join(f"call_{i}" for i in range(len(tools)))]
    for i, tool in enumerate(tools):
        head = quoted(f'{{"name": {json.dumps(tool.name)}, "{arguments_key}": ')
        rules += [f'call_{i}: {head} arguments_{i} "}}"', f"arguments_{i}: {json_rule(arguments_schema(tool.schema))}"]
    return rules


def arguments_schema(schema: Mapping[str, object]) -> dict[str, object]:
    """A tool's schema as that of an object, which arguments always are.

    Where it names properties and does not say whether others are allowed, they are not: no tool could use them.
    """
    whole = (
        dict(schema) if {"type", "$ref", "anyOf", "allOf", "oneOf"} & schema.keys() else {"type": "object", **schema}
    )
    is_open = {"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"} & whole.keys()
    return whole if is_open or "properties" not in whole else whole | {"additionalProperties": False}


def marked_text(rule: CallRule, style: ToolStyle, opening: str, *, opened: str, rules: Sequence[str]) -> str:
    """A grammar of calls that an opening mark announces, wherever in the text.

    Args:
        rule: what calls the text has to hold.
        style: of the model.
        opening: the mark.
        opened: all that may follow the first mark, as a rule's body.
        rules: that `opened` names.
    """
    mark = mark_of(opening, style)
    lines = [f"opened: {opened}", *rules]
    if rule.required:
        return "\n".join([f"start: {mark} opened", *lines])
    if rule.answer:
        return "\n".join([f"start: answer | {mark} opened", f"answer: {rule.answer}", *lines])
    if mark != quoted(opening):  # a token of its own, which is in no text
        return "\n".join([f"start: TEXT | TEXT {mark} opened", f"TEXT: {ANY_TEXT}", *lines])
    escaped = pattern(opening)
    return "\n".join(
        [
            "start: TEXT | upto opened",
            f"upto[lazy]: /(?s:.*){escaped}/",
            f"TEXT: {ANY_TEXT} & ~/(?s:.*){escaped}(?s:.*)/",
            *lines,
        ]
    )


def leading_text(rule: CallRule, *, first: str, calls: str, rules: Sequence[str]) -> str:
    """A grammar of text that is calls from its `first` character on, or none at all."""
    lines = [f"calls: {calls}", *rules]
    if rule.required:
        return "\n".join(["start: calls", *lines])
    if rule.answer:
        return "\n".join(["start: answer | calls", f"answer: {rule.answer}", *lines])
    return "\n".join(["start: TEXT | calls", rf"TEXT: /\s*([^\{first}\s](?s:.*))?/", *lines])
