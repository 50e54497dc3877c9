"""A Dockerfile's instructions, stage by stage: enough of the format for ours."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One `FROM base AS name` and the (instruction, rest) pairs after it."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of(self, instruction: str) -> list[str]:
        """What follows each instruction of that name."""
        return [rest for name, rest in self.instructions if name == instruction]


def stages(path: Path) -> dict[str, Stage]:
    """The stages by their names; in the one called "" is what comes before the first."""
    found = {"": Stage(name="", base="")}
    current = found[""]
    for instruction, rest in _instructions(path.read_text()):
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            current = found[name] = Stage(name=name, base=base)
        else:
            current.instructions.append((instruction, rest))
    return found


def lineage(all_stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and those that it is built on, the oldest first."""
    stage = all_stages[name]
    return [*(lineage(all_stages, stage.base) if stage.base in all_stages else []), stage]


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        yield instruction, rest.strip()
