"""Falcon 3's format: `<tool_call>` around a JSON list of calls."""

from osai.coordinator.tool_calls.calls import CallFormat, CallParser, CallRule
from osai.coordinator.tool_calls.hermes import CLOSING, OPENING, Hermes
from osai.coordinator.tool_calls.lark import json_object_rules, mark_of, marked_text
from osai.coordinator.tool_calls.style import ToolStyle


class Falcon(CallFormat):
    r"""`<tool_call>\n[{"name": "f", "arguments": {"a": 1}}]\n</tool_call>`."""

    name = "falcon"
    marks = (OPENING, CLOSING)

    def fits(self, template: str) -> bool:
        """Templates introduce a Falcon assistant, and name the mark."""
        return OPENING in template and "Falcon" in template

    def parser(self, names: frozenset[str]) -> CallParser:
        """As of CallFormat: Hermes' reads lists too."""
        return Hermes().parser(names)

    def grammar(self, rule: CallRule, style: ToolStyle) -> str:
        """As of CallFormat."""
        calls = 'call (", " call)*' if rule.parallel else "call"
        opened = f'"\\n[" {calls} "]\\n" {mark_of(CLOSING, style)}'
        return marked_text(rule, style, OPENING, opened=opened, rules=json_object_rules(rule.tools, "arguments"))
