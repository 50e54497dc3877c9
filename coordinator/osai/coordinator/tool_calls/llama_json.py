"""The JSON format of Llama 3.x and 4: an answer that is a JSON object with `name` and `parameters` is a call."""

from osai.coordinator.tool_calls.calls import CallFormat, CallParser, CallRule, ParsedCall, json_calls
from osai.coordinator.tool_calls.lark import json_object_rules, leading_text
from osai.coordinator.tool_calls.scanning import LeadingParser
from osai.coordinator.tool_calls.style import ToolStyle

_MARKS = ("<|python_tag|>", "<|python_start|>", "<|python_end|>")
_KEYS = ("parameters", "arguments")


def _unmarked(text: str) -> str:
    for mark in _MARKS:
        text = text.replace(mark, "")
    return text.strip()


def _begins(text: str) -> bool | None:
    """Whether the first thing is a brace, a mark before it or not."""
    rest = text.lstrip()
    for mark in _MARKS[:2]:
        if rest.startswith(mark):
            rest = rest.removeprefix(mark).lstrip()
        elif mark.startswith(rest):
            return None
    return rest.startswith("{") if rest else None


class LlamaJson(CallFormat):
    """`{"name": "f", "parameters": {"a": 1}}`; several calls are parted by `; `."""

    name = "llama_json"
    marks = _MARKS

    def fits(self, template: str) -> bool:
        """Templates spell the object out."""
        return '"name": ' in template and '"parameters": ' in template

    def parser(self, names: frozenset[str]) -> CallParser:
        """As of CallFormat."""

        def read(text: str) -> list[ParsedCall]:
            return json_calls(_unmarked(text), names, *_KEYS)

        return LeadingParser(_begins, read, after=_MARKS[2:])

    def grammar(self, rule: CallRule, style: ToolStyle) -> str:  # noqa: ARG002 - it needs no marks
        """As of CallFormat."""
        calls = 'call ("; " call)*' if rule.parallel else "call"
        return leading_text(rule, first="{", calls=calls, rules=json_object_rules(rule.tools, "parameters"))
