"""`osai-node cache`, and the options by which a node is told of its cache. Without torch."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click

from osai.core.errors import WeightsError
from osai.core.sizes import parse_bytes
from osai.node.weights.cache import DEFAULT_FOLDER, ChunkCache

Command = TypeVar("Command", bound=Callable[..., None])

_NO_CACHE = "osai.node.no_cache"


def cache_options(command: Command) -> Command:
    """Give a command --cache, --cache-size and --no-cache, as `cache_dir` (None for no cache) and `cache_bytes`."""

    def size(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
        return parse_bytes(value) if value else None

    def folder(context: click.Context, _: click.Parameter, value: Path) -> Path | None:
        return None if context.meta.get(_NO_CACHE) else value.expanduser()

    def none(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta[_NO_CACHE] = value

    for option in (
        click.option("--cache-size", "cache_bytes", callback=size, metavar="SIZE",
                     help="Of the cache, as in 50GiB; default: a tenth of what its disk has free."),
        click.option("--cache", "cache_dir", type=click.Path(path_type=Path), default=DEFAULT_FOLDER,
                     show_default=True, callback=folder,
                     help="Folder that keeps weights that came over the network."),
        click.option("--no-cache", is_flag=True, is_eager=True, expose_value=False, callback=none,
                     help="Keep none of them on disk."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group()
def cache() -> None:
    """Chunks of weights that are kept on this machine."""


folder_option = click.option(
    "--cache", "folder", type=click.Path(path_type=Path), default=DEFAULT_FOLDER, show_default=True, help="Its folder."
)


@cache.command("ls")
@folder_option
def list_command(folder: Path) -> None:
    """List the chunks, those first that go first: SHA-256, bytes, last use."""
    kept = sorted(ChunkCache(folder).kept(), key=lambda one: one.used_s)
    for one in kept:
        used = datetime.fromtimestamp(one.used_s, UTC)
        click.echo(f"{one.sha256}  {one.size_bytes:>10}  {used:%Y-%m-%d %H:%M:%S} UTC")
    click.echo(_total(len(kept), sum(one.size_bytes for one in kept)))


@cache.command("verify")
@folder_option
def verify_command(folder: Path) -> None:
    """Read every chunk, and remove those that are damaged; exit status 1 if there were any."""
    store, num_bad, num_right, num_bytes = ChunkCache(folder), 0, 0, 0
    for one in store.kept():
        data = store.read(one.sha256)
        if data is None:  # another process has removed it meanwhile
            continue
        if hashlib.sha256(data).hexdigest() == one.sha256:
            num_right, num_bytes = num_right + 1, num_bytes + len(data)
        else:
            num_bad += 1
            store.drop(one.sha256)
            click.echo(f"{one.sha256} is damaged; removed")
    click.echo(_total(num_right, num_bytes))
    if num_bad:
        raise WeightsError(f"{num_bad} chunks were damaged and are removed: look after this disk")


@cache.command("prune")
@folder_option
@click.option("--size", default="0", show_default=True, help="What is to be left at most, as in 10GiB; 0: nothing.")
def prune_command(folder: Path, size: str) -> None:
    """Remove the chunks that were not used for longest."""
    store = ChunkCache(folder)
    gone = store.prune(0 if size == "0" else parse_bytes(size))
    click.echo(f"removed {_total(len(gone), sum(one.size_bytes for one in gone))}")


def _total(count: int, num_bytes: int) -> str:
    return f"{count} chunks, {num_bytes / 2**20:.1f} MiB"
