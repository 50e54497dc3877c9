"""The public names of `osai.client`, as Markdown."""

import re
from collections.abc import Iterator
from pathlib import Path

import griffe

PACKAGE = "osai.client"
_SPACE = re.compile(r"\s+")


def describe_client(root: Path) -> str:
    """A section for each name that `osai.client` offers, in its order.

    Args:
        root: of the repository.
    """
    folders = [root / folder for folder in ("client", "core", "protos")]
    loader = griffe.GriffeLoader(search_paths=folders, docstring_parser=griffe.Parser.google, allow_inspection=False)
    package = loader.load(PACKAGE)
    loader.resolve_aliases(implicit=True, external=True)
    return "\n\n".join("\n\n".join(_object(name, package[name])) for name in map(str, package.exports or ()))


def _object(name: str, found: griffe.Object | griffe.Alias) -> Iterator[str]:
    target = found.final_target if isinstance(found, griffe.Alias) else found
    yield f"### `{name}`"
    if isinstance(target, griffe.Function):
        yield _code(_signature(target))
    elif isinstance(target, griffe.Attribute):
        yield _code(f"{name} = {target.value}")
    if isinstance(target, griffe.Class) and isinstance(made := target.members.get("__init__"), griffe.Function):
        yield _code(_signature(made).replace("__init__", name, 1).removesuffix(" -> None"))
    yield from _docstring(target)
    if isinstance(target, griffe.Class):
        yield from _fields(target)
        for member in _methods(target):
            yield f"#### `{name}.{member.name}`"
            yield _code(_signature(member))
            yield from _docstring(member)


def _methods(found: griffe.Class) -> Iterator[griffe.Function]:
    for member in found.members.values():
        if isinstance(member, griffe.Function) and not member.name.startswith("_"):
            yield member


def _fields(found: griffe.Class) -> Iterator[str]:
    """A dataclass's fields and a class's properties."""
    rows = [
        f"- `{member.name}`: {_inline(str(member.annotation))}{_told(member)}"
        for member in found.members.values()
        if isinstance(member, griffe.Attribute) and not member.name.startswith("_") and member.annotation
    ]
    if rows:
        yield "\n".join(rows)


def _told(member: griffe.Attribute) -> str:
    default = f", by default `{member.value}`" if member.value is not None and "property" not in member.labels else ""
    return f"{default}. {_line(member.docstring.value)}" if member.docstring else default


def _signature(function: griffe.Function) -> str:
    parts, starred = [], False
    for parameter in function.parameters:
        if parameter.name == "self":
            continue
        kind = parameter.kind
        if kind is griffe.ParameterKind.keyword_only and not starred:
            parts.append("*")
            starred = True
        mark = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(kind, "")
        starred = starred or mark == "*"
        annotation = f": {parameter.annotation}" if parameter.annotation is not None else ""
        default = f" = {parameter.default}" if parameter.default is not None and not mark else ""
        parts.append(f"{mark}{parameter.name}{annotation}{default}")
    is_async = "async " if "async" in function.labels else ""
    returned = f" -> {function.returns}" if function.returns is not None else ""
    return f"{is_async}{function.name}({', '.join(parts)}){returned}"


def _docstring(found: griffe.Object) -> Iterator[str]:
    if found.docstring is None:
        return
    for section in found.docstring.parsed:
        if section.kind is griffe.DocstringSectionKind.text:
            yield str(section.value).strip()
        elif section.kind in _LISTS:
            rows = [f"- {_name(item)}{_line(item.description)}" for item in section.value]
            yield f"{_LISTS[section.kind]}\n" + "\n".join(rows)


_LISTS = {
    griffe.DocstringSectionKind.parameters: "Takes:",
    griffe.DocstringSectionKind.attributes: "Has:",
    griffe.DocstringSectionKind.raises: "Raises:",
    griffe.DocstringSectionKind.returns: "Returns:",
    griffe.DocstringSectionKind.yields: "Yields:",
}


def _name(item: object) -> str:
    name = getattr(item, "name", "") or str(getattr(item, "annotation", "") or "")
    return f"`{name}`: " if name else ""


def _inline(text: str) -> str:
    return f"`{_SPACE.sub(' ', text)}`"


def _line(text: str) -> str:
    return _SPACE.sub(" ", text).strip()


def _code(text: str) -> str:
    return f"```py\n{text}\n```"
