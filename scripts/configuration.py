"""`scripts/config_docs`: docs/configuration.md, made of the programs' options."""

import sys
from pathlib import Path

import click
from scripts.made_document import write_or_check

from osai.coordinator.cli import main as coordinator
from osai.core.config_show import markdown_table
from osai.node.cli import main as node

FILE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
PROGRAMS = (("osai-node", node, "join"), ("osai-coordinator", coordinator, "serve"))

_HEAD = """# Configuration

Made of the programs' options by `scripts/config_docs`: change those, not this file.

`osai-node join` and `osai-coordinator serve` take each option in three ways. A flag on the command line goes before
an environment variable, that before a line of the file that `--config FILE` names, and that before the default. The
file is TOML; its keys are the long options without their dashes, all at the top. What may be given several times is a
list. Paths are relative to the folder in which the program is started.

```toml
# /etc/osai/node.toml, for `osai-node join --config /etc/osai/node.toml`
address = "swarm.example.org:7070"
model = ["org/model"]
memory = "6GiB"
metrics = "127.0.0.1:9090"
log-format = "json"
```

A key that does not exist, or a value of another type, is an error that names the file and the key, and for a key the
one that was probably meant. In an environment variable several values stand between spaces (for files between
colons), and a flag is `true` or `false`.

`osai-node config show` and `osai-coordinator config show` print the effective values, as such a file, each with where
it comes from; they take the same options. What is secret (`token`, and names, passwords and queries in addresses) is
not shown. `osai-node doctor` looks whether a node could run so.
"""


def document() -> str:
    """The whole of it."""
    parts = [_HEAD]
    for program, group, name in PROGRAMS:
        command = group.commands[name]
        prefix = program.upper().replace("-", "_")
        root = click.Context(group, info_name=program, auto_envvar_prefix=prefix)
        with command.make_context(name, [], parent=root, resilient_parsing=True) as context:
            parts.append(f"## `{program} {name}`\n{markdown_table(command, context)}\n")
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Write the document, or say whether it is current; the exit status."""
    return write_or_check(FILE, document(), "scripts/config_docs", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
