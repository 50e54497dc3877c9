"""Helm in a process of its own (`python -m`): a runtime of Go's has no place in a process that goes on to fork.

Reads {"chart": FOLDER, "values": [...]} from standard input; writes for each values what lint and templates say.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Values = Mapping[str, Any]
TIMEOUT_S = 60
ERROR = 3  # a severity of Helm's lint


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What Helm says of a chart with some values.

    Attributes:
        problems: errors and warnings of lint.
        refused: why it could not be rendered; empty if it could.
        files: of manifests, by template.
    """

    problems: tuple[str, ...]
    refused: str
    files: Mapping[str, str]


def render(chart: Path, values: Sequence[Values], *, release: str = "osai") -> tuple[Rendered, ...]:
    """Lint and render a chart, once with each of the values."""
    asked = json.dumps({"chart": str(chart), "values": values, "release": release})
    command = [sys.executable, __file__]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return tuple(
        Rendered(problems=tuple(one["problems"]), refused=one["refused"], files=one["files"])
        for one in json.loads(done.stdout)
    )


def _render(chart: str, release: str, values: Values) -> Mapping[str, Any]:
    import helm_python

    linted = helm_python.lint(chart, dict(values), strict=True)
    problems = [one["error"] for one in linted["messages"] if one["severity"] >= ERROR - 1]
    try:
        with helm_python.Chart.load(chart) as opened:
            opened.validate_schema(dict(values))
            return {"problems": problems, "refused": "", "files": opened.render(dict(values), name=release)}
    except helm_python.HelmError as e:
        return {"problems": problems, "refused": str(e), "files": {}}


def main() -> None:
    """Answer what standard input asks."""
    asked = json.load(sys.stdin)
    print(json.dumps([_render(asked["chart"], asked["release"], values) for values in asked["values"]]))  # noqa: T201


if __name__ == "__main__":
    main()
