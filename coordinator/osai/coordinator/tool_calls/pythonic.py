"""Llama 4's pythonic format: `[f(a=1), g()]`."""

import ast
import json

from osai.coordinator.tool_calls.calls import CallFormat, CallParser, CallRule, ParsedCall
from osai.coordinator.tool_calls.lark import arguments_schema, leading_text, quoted
from osai.coordinator.tool_calls.literals import Notation, SchemaRules
from osai.coordinator.tool_calls.scanning import LeadingParser
from osai.coordinator.tool_calls.style import ToolStyle

_OPENING, _CLOSING = "<|python_start|>", "<|python_end|>"
_MAX_CHARS = 64 * 1024  # Python's parser takes some hundred times the memory of its text


def _begins(text: str) -> bool | None:
    """Whether the first thing is a list of something that looks like a call."""
    rest = text.lstrip()
    if rest.startswith(_OPENING):
        rest = rest.removeprefix(_OPENING).lstrip()
    elif _OPENING.startswith(rest):
        return None
    if rest in ("", "["):
        return None
    return rest.startswith("[") and (rest[1:].lstrip()[:1].isidentifier() or not rest[1:].strip())


def _call(node: ast.expr, names: frozenset[str]) -> ParsedCall | None:
    if not isinstance(node, ast.Call) or node.args:
        return None
    name = ast.unparse(node.func)
    if name not in names or any(keyword.arg is None for keyword in node.keywords):
        return None
    values = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    return ParsedCall(name=name, arguments=json.dumps(values, ensure_ascii=False, allow_nan=False))


def _read(text: str, names: frozenset[str]) -> list[ParsedCall]:
    source = text.replace(_OPENING, "").replace(_CLOSING, "").strip()
    if len(source) > _MAX_CHARS:
        return []
    try:
        body = ast.parse(source, mode="eval").body
        calls = [_call(node, names) for node in body.elts] if isinstance(body, ast.List) else []
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return []  # of whatever kind Python's parser finds fit
    return [call for call in calls if call is not None] if all(calls) else []


def _notation() -> Notation:
    return Notation(
        literal=lambda value: quoted(json.dumps(value) if isinstance(value, str) else repr(value)),
        string=r'/"([^"\\\n\r]|\\["\\nrt])*"/',
        constants=("True", "False", "None"),
        entry=lambda key: quoted(f"{key}="),
        inner_entry=lambda key: quoted(f"{json.dumps(key)}: "),
        separator=", ",
    )


class Pythonic(CallFormat):
    """`[f(a=1), g()]`, also between `<|python_start|>` and `<|python_end|>`."""

    name = "pythonic"
    marks = (_OPENING, _CLOSING)

    def fits(self, template: str) -> bool:
        """Templates show a list of calls."""
        return "[func_name1(" in template

    def parser(self, names: frozenset[str]) -> CallParser:
        """As of CallFormat."""
        return LeadingParser(_begins, lambda text: _read(text, names), quotes="\"'", after=(_CLOSING,))

    def grammar(self, rule: CallRule, style: ToolStyle) -> str:  # noqa: ARG002 - it needs no marks
        """As of CallFormat."""
        lines = ["call: " + " | ".join(f"call_{i}" for i in range(len(rule.tools)))]
        for i, tool in enumerate(rule.tools):
            schema = arguments_schema(tool.schema)
            written = SchemaRules(_notation(), f"t{i}_", schema)
            entries = written.entries(schema, written.notation.entry)
            lines += [f'call_{i}: {quoted(tool.name + "(")} {entries} ")"', *written.rules]
        calls = 'call (", " call)*' if rule.parallel else "call"
        return leading_text(rule, first="[", calls=f'"[" {calls} "]"', rules=lines)
