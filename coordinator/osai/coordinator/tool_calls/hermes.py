"""Hermes' format, which Qwen's models have too: `<tool_call>` around each call's JSON."""

from osai.coordinator.tool_calls.calls import CallFormat, CallParser, CallRule, json_calls
from osai.coordinator.tool_calls.lark import json_object_rules, mark_of, marked_text
from osai.coordinator.tool_calls.scanning import MarkedParser, TidyParser
from osai.coordinator.tool_calls.style import ToolStyle

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_OTHER_BODIES = ("<function=", "<arg_key>")  # within the same marks: Qwen3-Coder's and GLM's


class Hermes(CallFormat):
    r"""`<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>`, once a call."""

    name = "hermes"
    marks = (OPENING, CLOSING)

    def fits(self, template: str) -> bool:
        """Templates name the mark."""
        return OPENING in template and not any(other in template for other in _OTHER_BODIES)

    def parser(self, names: frozenset[str]) -> CallParser:
        """As of CallFormat."""
        return TidyParser(MarkedParser(OPENING, CLOSING, lambda body: json_calls(body, names, "arguments")))

    def grammar(self, rule: CallRule, style: ToolStyle) -> str:
        """As of CallFormat."""
        opening, closing = mark_of(OPENING, style), mark_of(CLOSING, style)
        block = f'"\\n" call "\\n" {closing}'
        opened = f'{block} ("\\n" {opening} {block})*' if rule.parallel else block
        return marked_text(rule, style, OPENING, opened=opened, rules=json_object_rules(rule.tools, "arguments"))
