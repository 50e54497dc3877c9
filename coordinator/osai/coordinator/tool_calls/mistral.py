"""Mistral's format: `[TOOL_CALLS]`, and after it nothing but calls."""

import json
from collections.abc import Callable

from osai.coordinator.tool_calls.calls import CallFormat, CallParser, CallRule, ParsedCall, json_calls
from osai.coordinator.tool_calls.lark import (
    arguments_schema,
    json_object_rules,
    json_rule,
    mark_of,
    marked_text,
    quoted,
)
from osai.coordinator.tool_calls.scanning import MarkedParser, TidyParser
from osai.coordinator.tool_calls.style import ToolStyle

_OPENING, _ARGUMENTS = "[TOOL_CALLS]", "[ARGS]"
_NEVER = "\0"  # no mark ends the calls: the end of the text does
_ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _read(body: str, names: frozenset[str]) -> list[ParsedCall]:
    text = body.strip()
    if text.startswith(("[", "{")) and not text.startswith(_ARGUMENTS):
        return json_calls(text, names, "arguments")
    calls = []
    for part in text.split(_OPENING):  # newer models: a name and its arguments, once a mark
        name, brace, rest = part.replace(_ARGUMENTS, "").partition("{")
        written = json.dumps({"name": name.strip()})[:-1] + ', "arguments": ' + brace + rest + "}"
        found = json_calls(written, names, "arguments")
        if len(found) != 1:
            return []
        calls += found
    return calls


class Mistral(CallFormat):
    """`[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]`, or of newer models `[TOOL_CALLS]f[ARGS]{"a": 1}`."""

    name = "mistral"
    marks = (_OPENING, _ARGUMENTS)

    def fits(self, template: str) -> bool:
        """Templates name the mark."""
        return _OPENING in template

    def parser(self, names: frozenset[str]) -> CallParser:
        """As of CallFormat."""
        return TidyParser(MarkedParser(_OPENING, _NEVER, lambda body: _read(body, names)))

    def grammar(self, rule: CallRule, style: ToolStyle) -> str:
        """As of CallFormat: a list of calls, or of a model that has the second mark, that mark's form."""
        if _ARGUMENTS not in dict(style.tokens):
            calls = 'call (", " call)*' if rule.parallel else "call"
            rules = json_object_rules(rule.tools, "arguments")
            return marked_text(rule, style, _OPENING, opened=f'"[" {calls} "]"', rules=rules)
        rules = ["call: " + " | ".join(f"call_{i}" for i in range(len(rule.tools)))]
        for i, tool in enumerate(rule.tools):
            rules += [f"call_{i}: {quoted(tool.name)} {mark_of(_ARGUMENTS, style)} arguments_{i}"]
            rules += [f"arguments_{i}: {json_rule(arguments_schema(tool.schema))}"]
        opened = f"call ({mark_of(_OPENING, style)} call)*" if rule.parallel else "call"
        return marked_text(rule, style, _OPENING, opened=opened, rules=rules)

    def call_id(self, random_bits: Callable[[int], int]) -> str:
        """Nine letters and digits: its templates take no other."""
        return "".join(_ID_ALPHABET[random_bits(30) % len(_ID_ALPHABET)] for _ in range(9))
