"""`scripts/chaos --trust`: each attack of docs/security.md, many times over."""

import asyncio

import click
from scripts.benches.table import Table
from scripts.chaos_runs.attack_readers import READERS
from scripts.chaos_runs.attacks import MAX_GROWN_BYTES, Attacked, attack
from scripts.chaos_runs.flips import WAYS, Flipped, flip
from scripts.chaos_runs.forged_records import Forged, forge
from scripts.chaos_runs.wire_attacks import ATTACKS
from scripts.chaos_runs.wire_trials import Trial, attack_wire, attacked_process

FULL_COUNT = 1_000_000  # of damaged messages; of all else a thousandth
MAX_LINES = 100  # of what was wrong
Row = tuple[str, str, str, str]


def run_trust(count: int, seed: int) -> None:
    """Make every attack, and print what came of it; the exit status is 1 if any got through.

    Args:
        count: of damaged messages; of flipped bytes and of forged records a thousandth of it each, and one at least.
        seed: of what is drawn.
    """
    tries, each = max(1, count // 1000), -(-count // len(READERS))
    wire = asyncio.run(_wire_trials())
    flipped = [asyncio.run(flip(way, seed=seed, count=tries)) for way in WAYS]
    forged = forge(seed=seed, count=tries)
    attacked = [asyncio.run(attack(reader, seed=seed, count=each)) for reader in READERS]
    rows = [*map(_wire_row, wire), *map(_flip_row, flipped), _forged_row(forged), *map(_message_row, attacked)]
    click.echo(Table(header=("attack", "tries", "what came of it", "verdict"), rows=tuple(rows)).plain())
    wrong = [f"socket: {one.name}: {one.wrong}" for one in wire if one.wrong]
    wrong += [line for each_way in flipped for line in each_way.wrong]
    wrong += forged.believed + [line for reader in attacked for line in reader.strange]
    for line in wrong[:MAX_LINES]:
        click.echo(line)
    if any(row[-1] != _verdict(passed=True) for row in rows):
        raise SystemExit(1)


async def _wire_trials() -> list[Trial]:
    with attacked_process() as victim:
        return [await attack_wire(victim, name) for name in ATTACKS]


def _wire_row(one: Trial) -> Row:
    grown = f"{one.grown_bytes / 2**20:.0f} MiB grown"
    return (f"socket: {one.name}", "1", f"{one.num_told} typed errors, {grown}", _verdict(passed=one.passed))


def _flip_row(one: Flipped) -> Row:
    told = f"{one.num_blamed} blamed, {one.num_refetched} fetched from elsewhere, {len(one.wrong)} wrong"
    return (f"byte flipped {one.way}", str(one.num_tries), told, _verdict(passed=one.passed))


def _forged_row(one: Forged) -> Row:
    return ("records forged", str(one.num_sent), f"{one.num_refused} ignored", _verdict(passed=one.passed))


def _message_row(one: Attacked) -> Row:
    grown = f"{one.grown_bytes / 2**20:.0f} of {MAX_GROWN_BYTES / 2**20:.0f} MiB grown"
    told = f"{one.num_refused} refused, {len(one.strange)} other exceptions, {grown}"
    return (f"messages: {one.reader}", str(one.num_sent), told, _verdict(passed=one.passed))


def _verdict(*, passed: bool) -> str:
    return "ok" if passed else "FAILED"
