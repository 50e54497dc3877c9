"""Gemma's formats: a call between two marks, its strings between marks too."""

import json
from dataclasses import dataclass

from osai.coordinator.tool_calls.calls import CallFormat, CallParser, CallRule, ParsedCall
from osai.coordinator.tool_calls.lark import arguments_schema, mark_of, marked_text, pattern, quoted
from osai.coordinator.tool_calls.literals import Notation, SchemaRules
from osai.coordinator.tool_calls.scanning import MarkedParser, TidyParser
from osai.coordinator.tool_calls.style import ToolStyle

_MAX_DEPTH = 32
_ENDS = frozenset(",]}")


class _MalformedError(ValueError):
    """The text is no value."""


@dataclass(slots=True)
class _Values:
    """Reads values of one text, from `at` on."""

    text: str
    escape: str
    at: int = 0

    def entries(self, depth: int = 0) -> dict[str, object]:
        """`{key:value,...}`."""
        self._take("{")
        found: dict[str, object] = {}
        while not self._taken("}"):
            if found:
                self._take(",")
            key = self._string() if self.text.startswith(self.escape, self.at) else self._until(":")
            self._take(":")
            found[key.strip()] = self._value(depth + 1)
        return found

    def _value(self, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise _MalformedError("too deep")
        if self.text.startswith(self.escape, self.at):
            return self._string()
        if self.text.startswith("{", self.at):
            return self.entries(depth)
        if self.text.startswith("[", self.at):
            return self._items(depth)
        end = self.at
        while end < len(self.text) and self.text[end] not in _ENDS:
            end += 1
        word, self.at = self.text[self.at : end], end
        try:
            return json.loads(word, parse_constant=_refuse)
        except ValueError as e:
            raise _MalformedError(word) from e

    def _items(self, depth: int) -> list[object]:
        self._take("[")
        found: list[object] = []
        while not self._taken("]"):
            if found:
                self._take(",")
            found.append(self._value(depth + 1))
        return found

    def _string(self) -> str:
        self._take(self.escape)
        text = self._until(self.escape)
        self._take(self.escape)
        return text

    def _until(self, mark: str) -> str:
        end = self.text.find(mark, self.at)
        if end < 0:
            raise _MalformedError(mark)
        found, self.at = self.text[self.at : end], end
        return found

    def _take(self, mark: str) -> None:
        if not self._taken(mark):
            raise _MalformedError(mark)

    def _taken(self, mark: str) -> bool:
        found = self.text.startswith(mark, self.at)
        self.at += len(mark) if found else 0
        return found


def _refuse(text: str) -> None:
    raise _MalformedError(text)


class Gemma(CallFormat):
    """`OPENING call:f{a:1,b:ESCAPE text ESCAPE} CLOSING`, once a call (the blanks are not there).

    Args:
        name: of the format.
        opening: the mark before a call.
        closing: the mark behind it.
        escape: the mark around a string.
    """

    def __init__(self, name: str, opening: str, closing: str, escape: str) -> None:
        self.name = name
        self.marks = (opening, closing, escape)
        self._opening, self._closing, self._escape = opening, closing, escape

    def fits(self, template: str) -> bool:
        """Templates name the mark."""
        return self._opening in template

    def parser(self, names: frozenset[str]) -> CallParser:
        """As of CallFormat."""
        return TidyParser(MarkedParser(self._opening, self._closing, lambda body: self._read(body, names)))

    def grammar(self, rule: CallRule, style: ToolStyle) -> str:
        """As of CallFormat."""
        notation = self._notation(style)
        opening, closing = mark_of(self._opening, style), mark_of(self._closing, style)
        lines = [f"string: {self._string_rule(style)}", r"upto_escape[lazy]: /(?s:.*)" + pattern(self._escape) + "/"]
        lines = lines if mark_of(self._escape, style) == quoted(self._escape) else [lines[0], "CHARS: /(?s:.*)/"]
        lines.append("call: " + " | ".join(f"call_{i}" for i in range(len(rule.tools))))
        for i, tool in enumerate(rule.tools):
            schema = arguments_schema(tool.schema)
            written = SchemaRules(notation, f"t{i}_", schema)
            entries = written.entries(schema, notation.entry)
            lines += [f'call_{i}: {quoted(f"call:{tool.name}{{")} {entries} "}}"', *written.rules]
        opened = f"call {closing} ({opening} call {closing})*" if rule.parallel else f"call {closing}"
        return marked_text(rule, style, self._opening, opened=opened, rules=lines)

    def _read(self, body: str, names: frozenset[str]) -> list[ParsedCall]:
        name, brace, rest = body.strip().removeprefix("call:").partition("{")
        if name not in names:
            return []
        values = _Values(text=brace + rest, escape=self._escape)
        try:
            arguments = values.entries()
        except (_MalformedError, RecursionError):
            return []
        complete = values.at == len(values.text)
        return [ParsedCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False))] if complete else []

    def _notation(self, style: ToolStyle) -> Notation:
        escape = mark_of(self._escape, style)

        def literal(value: object) -> str:
            return f"{escape} {quoted(value)} {escape}" if isinstance(value, str) else quoted(json.dumps(value))

        return Notation(
            literal=literal,
            string="string",
            constants=("true", "false", "null"),
            entry=lambda key: quoted(f"{key}:"),
            inner_entry=lambda key: quoted(f"{key}:"),
            separator=",",
        )

    def _string_rule(self, style: ToolStyle) -> str:
        escape = mark_of(self._escape, style)
        return f"{escape} upto_escape" if escape == quoted(self._escape) else f"{escape} CHARS {escape}"
