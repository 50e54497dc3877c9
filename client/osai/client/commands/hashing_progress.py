"""A progress bar while files are hashed."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from osai.client.checkpoint_folder import OnBytes


@contextmanager
def hashing_progress(what: str, total_bytes: int) -> Iterator[OnBytes | None]:
    """A bar on a terminal (standard error), nothing elsewhere; yields what is to be told of bytes."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total_bytes)
        yield lambda count: progress.advance(task, count)
