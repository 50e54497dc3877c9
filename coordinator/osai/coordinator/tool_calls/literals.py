"""JSON schemas as lark rules, for formats that write arguments otherwise than as JSON. Pure."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from osai.core.errors import InvalidRequestError

MAX_DEPTH = 16
MAX_RULES = 2000  # a schema that refers to itself would make them without end
# That say nothing of the value, and those that are written down below.
_SILENT = frozenset({"title", "description", "default", "examples", "$schema", "$defs", "definitions", "deprecated",
                     "additionalProperties"})  # fmt: skip
_WRITTEN = frozenset({"type", "properties", "required", "items", "enum", "const", "anyOf", "oneOf", "$ref"})
_KINDS: Mapping[str, type] = {"properties": dict, "required": list, "enum": list, "anyOf": list, "oneOf": list}
Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notation:
    """How a format writes values.

    Attributes:
        literal: one given value, as a rule's body.
        string: any string, as a rule's body.
        constants: true, false and null as they are written.
        entry: what comes before an argument's value, from its name, as a rule's body.
        inner_entry: the same of an entry of an object within an argument.
        separator: between entries and items.
    """

    literal: Callable[[object], str]
    string: str
    constants: tuple[str, str, str]
    entry: Callable[[str], str]
    inner_entry: Callable[[str], str]
    separator: str


@dataclass(slots=True)
class SchemaRules:
    """Turns one schema into rules whose names begin with `prefix`.

    Attributes:
        rules: what has been written so far.
    """

    notation: Notation
    prefix: str
    root: Schema
    rules: list[str] = field(default_factory=list)
    _num_names: int = 0

    def value(self, schema: Schema, depth: int = 0) -> str:
        """The name of a rule for the values that a schema allows.

        Raises:
            InvalidRequestError: if it says more than a grammar of this format can, or goes too deep.
        """
        schema = self._resolved(schema, depth)
        name = self._named()
        self.rules.append(f"{name}: {self._body(schema, depth + 1)}")
        return name

    def entries(self, schema: Schema, entry_of: Callable[[str], str], depth: int = 0) -> str:
        """The name of a rule for an object's entries, in the order of its properties; some may be left out.

        Raises:
            InvalidRequestError: as of `value`.
        """
        schema = self._resolved(schema, depth)
        required = frozenset(str(key) for key in schema.get("required", ()))
        properties = list(schema.get("properties", {}).items())
        if missing := required - {key for key, _ in properties}:
            raise InvalidRequestError(f"the schema requires {min(missing)!r} and does not describe it")
        first, more = '""', '""'  # what may follow when no entry has come yet, and when one has
        for key, inner in reversed(properties):
            entry = f"{entry_of(key)} {self.value(inner, depth + 1)}"
            skip_first, skip_more = ("", "") if key in required else (f" | {first}", f" | {more}")
            rest = more
            first = self._rule(f"{entry} {rest}{skip_first}")
            more = self._rule(f"{json.dumps(self.notation.separator)} {entry} {rest}{skip_more}")
        return first if properties else self._rule('""')

    def _body(self, schema: Schema, depth: int) -> str:
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return " | ".join(self.notation.literal(value) for value in values)
        if options := schema.get("anyOf") or schema.get("oneOf"):
            return " | ".join(self.value(option, depth) for option in options)
        kinds = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(kinds, list):
            return " | ".join(self.value({**schema, "type": kind}, depth) for kind in kinds)
        return self._of_kind(kinds, schema, depth)

    def _of_kind(self, kind: object, schema: Schema, depth: int) -> str:
        if kind == "array":
            item = self.value(schema.get("items", {"type": "string"}), depth)
            return f'"[]" | "[" {item} ({json.dumps(self.notation.separator)} {item})* "]"'
        if kind == "object":
            return f'"{{" {self.entries(schema, self.notation.inner_entry, depth)} "}}"'
        true, false, null = (json.dumps(text) for text in self.notation.constants)
        bodies = {
            "string": self.notation.string,
            "integer": "/-?(0|[1-9][0-9]{0,17})/",
            "number": r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?/",
            "boolean": f"{true} | {false}",
            "null": null,
        }
        if not isinstance(kind, str) or kind not in bodies:
            raise InvalidRequestError(f"the schema has a value of type {kind!r}, which this model's format can't hold")
        return bodies[kind]

    def _resolved(self, schema: object, depth: int) -> Schema:
        if depth > MAX_DEPTH:
            raise InvalidRequestError(f"the schema is more than {MAX_DEPTH} levels deep")
        if not isinstance(schema, dict):
            raise InvalidRequestError(f"the schema has {schema!r} where a JSON object must stand")
        for key, kind in _KINDS.items():
            if key in schema and not isinstance(schema[key], kind):
                raise InvalidRequestError(f"the schema's {key!r} is no {kind.__name__}")
        if unknown := schema.keys() - _SILENT - _WRITTEN:
            raise InvalidRequestError(f"the schema says {min(unknown)!r}, which this model's format can't enforce")
        if "$ref" not in schema:
            return schema
        return self._resolved(self._found(str(schema["$ref"])), depth + 1)

    def _found(self, reference: str) -> object:
        found: object = self.root
        for step in filter(None, reference.removeprefix("#").split("/")):
            if not isinstance(found, dict) or step not in found:
                raise InvalidRequestError(f"the schema has no {reference!r}")
            found = found[step]
        return found

    def _rule(self, body: str) -> str:
        name = self._named()
        self.rules.append(f"{name}: {body}")
        return name

    def _named(self) -> str:
        self._num_names += 1
        if self._num_names > MAX_RULES:
            raise InvalidRequestError(f"the schema takes more than {MAX_RULES} rules; make it smaller")
        return f"{self.prefix}{self._num_names}"
