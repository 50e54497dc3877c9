"""`osai-coordinator key`: make API keys, list them, revoke them."""

import json
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from osai.coordinator.config import DEFAULT_STATE
from osai.coordinator.keys.api_key import MAX_LIMIT, ApiKey, Quota, Scope
from osai.coordinator.keys.book import KeyBook
from osai.coordinator.keys.key_text import KeyText
from osai.coordinator.keys.store import KEYS_FILE, KeysFile
from osai.core.reporting import ReportingGroup

DAY_S = 86_400
_LIMIT = click.IntRange(1, MAX_LIMIT)
_COLUMNS = ("id", "name", "state", "scopes", "models", "limits")

_keys_option = click.option(
    "--keys",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_STATE / KEYS_FILE,
    show_default=True,
    help="The coordinator's keys file.",
)


@click.group("key", cls=ReportingGroup)
def key_group() -> None:
    """Make the API keys of `osai-coordinator serve --require-keys`, list them, revoke them."""


@key_group.command("create")
@click.argument("name")
@_keys_option
@click.option("--scope", "scopes", type=click.Choice([str(scope) for scope in Scope]), multiple=True,
              default=(str(Scope.GENERATE), str(Scope.MODELS)), show_default=True,
              help="What it may do: generate, list models, see the swarm's nodes. Repeatable.")  # fmt: skip
@click.option("--model", "models", default=("*",), multiple=True, show_default=True,
              help="Model that it may use; * stands for anything, as in org/*. Repeatable.")  # fmt: skip
@click.option("--valid-days", type=click.IntRange(1, 36500), help="Days after which it is refused. Default: never.")
@click.option("--requests-per-minute", type=_LIMIT, default=None, help="Default: no limit.")
@click.option("--tokens-per-minute", type=_LIMIT, default=None, help="Prompt and generated. Default: no limit.")
@click.option("--tokens-per-day", type=_LIMIT, default=None, help="Prompt and generated. Default: no limit.")
@click.option("--concurrent", type=_LIMIT, default=None, help="Generations at once. Default: no limit.")
def create(
    *,
    name: str,
    path: Path,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    valid_days: int | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    tokens_per_day: int | None,
    concurrent: int | None,
) -> None:
    """Make a key and print it: this once, for only a digest of it is kept. NAME says whose it is.

    A running coordinator takes it within seconds.

    \b
    Examples:
      osai-coordinator key create "Ada's laptop"
      osai-coordinator key create ci --model org/* --tokens-per-minute 20000 --concurrent 2 --valid-days 90 > ci.key
    """  # noqa: D301 (click reads the escape)
    quota = Quota(
        requests_per_minute=requests_per_minute or 0,
        tokens_per_minute=tokens_per_minute or 0,
        tokens_per_day=tokens_per_day or 0,
        max_concurrent=concurrent or 0,
    )

    def adding(book: KeyBook) -> tuple[KeyBook, KeyText]:
        return book.create(
            name,
            now_s=time.time(),
            random=secrets.token_bytes,
            scopes=frozenset(Scope(scope) for scope in scopes),
            models=models,
            quota=quota,
            life_s=(valid_days or 0) * DAY_S,
        )

    made = KeysFile(path.expanduser()).change(adding)
    click.echo(made.text)
    click.echo(f"key {made.key_id}: keep it secret; it is not shown again. Clients read it from OSAI_API_KEY", err=True)


@key_group.command("list")
@_keys_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line in place of the table.")
def list_keys(path: Path, as_json: bool) -> None:
    """Show the keys, without their secrets: nobody has those but their holders."""
    keys, now_s = KeysFile(path.expanduser()).read().keys, time.time()
    if as_json:
        shown = [{k: v for k, v in key.to_entry().items() if k != "secret_sha256"} for key in keys]
        click.echo(json.dumps({"keys": shown}))
        return
    rows = [_COLUMNS, *(_row(key, now_s) for key in keys)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@key_group.command("revoke")
@_keys_option
@click.argument("key_id", metavar="ID")
def revoke(path: Path, key_id: str) -> None:
    """Let a key in no more; what it runs is ended within seconds. ID is as `key list` shows it.

    \b
    Example:
      osai-coordinator key revoke 0123456789abcdef
    """  # noqa: D301 (click reads the escape)
    KeysFile(path.expanduser()).change(lambda book: (book.revoked(key_id, time.time()), None))
    click.echo(f"revoked {key_id}")


def _row(key: ApiKey, now_s: float) -> tuple[str, ...]:
    quota = key.quota
    limits = (
        (quota.requests_per_minute, "requests/min"),
        (quota.tokens_per_minute, "tokens/min"),
        (quota.tokens_per_day, "tokens/day"),
        (quota.max_concurrent, "at once"),
    )
    named = ", ".join(f"{limit} {words}" for limit, words in limits if limit)
    return key.key_id, key.name, _state(key, now_s), ",".join(sorted(key.scopes)), ",".join(key.models), named or "none"


def _state(key: ApiKey, now_s: float) -> str:
    if key.revoked_s:
        return f"revoked {_day(key.revoked_s)}"
    if not key.expires_s:
        return "good"
    return f"{'expired' if key.ended_s(now_s) else 'good until'} {_day(key.expires_s)}"


def _day(at_s: int) -> str:
    try:
        return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):  # a time past the year 9999
        return f"{at_s} s"
