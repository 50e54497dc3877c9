"""What the facts of a machine mean for a node, and what to do. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from osai.node.doctor.facts import CoordinatorFacts, DeviceFacts, DiskFacts, Facts, PortFacts, TrustFacts

Status = Literal["ok", "warn", "fail"]

GIB, MIB = 2**30, 2**20
LITTLE_MEMORY_BYTES = 2 * GIB  # a span of one layer of a small model, and some KV
LEAST_MEMORY_BYTES = 256 * MIB
LITTLE_DISK_BYTES = 10 * GIB
SLOW_DISK_BYTES_S = 30 * MIB  # slower than most networks: loading waits for the disk
MAX_SKEW_S = 3.0  # hivemind's own bound for what comes from others
BAD_SKEW_S = 30.0  # a record's life in the DHT: members don't see each other any more
FAR_S = 0.25
CERTIFICATE_SOON_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Of one check.

    Attributes:
        saw: what was observed, in words.
        todo: what to do; empty where there is nothing to do.
    """

    check: str
    status: Status
    saw: str
    todo: str = ""


def verdicts(facts: Facts) -> list[Verdict]:
    """Of every check, in the order in which a node would fail."""
    return [
        device(facts.device),
        memory(facts.device),
        *map(port, facts.ports),
        coordinator(facts.coordinator),
        protocol(facts.coordinator),
        clock(facts.coordinator),
        disk(facts.disk),
        trust(facts.trust),
        membership(facts.trust),
    ]


def exit_status(found: Iterable[Verdict]) -> int:
    """1 if a check failed, else 0: a warning keeps no node from serving."""
    return int(any(verdict.status == "fail" for verdict in found))


def device(facts: DeviceFacts) -> Verdict:
    """Whether there is a device to compute on, in the dtype that is wanted."""
    if not facts.torch:
        return _fail("device", f"torch can't be imported: {facts.error}", "pip install 'osai[node]'")
    if facts.error:
        return _fail("device", facts.error, "name another with --device or --dtype")
    saw = f"{facts.device}, torch {facts.torch}"
    missing = [name for name, has in (("bfloat16", facts.has_bfloat16), ("float16", facts.has_float16)) if not has]
    if facts.dtype in missing:
        return _fail("device", f"{saw}: no {facts.dtype}", "use --dtype float32")
    if missing:
        return _warn("device", f"{saw}: no fast {' or '.join(missing)}", "models in it run slowly or not at all here")
    return _ok("device", f"{saw}: float32, bfloat16, float16")


def memory(facts: DeviceFacts) -> Verdict:
    """Whether there is memory for a span."""
    saw = f"{facts.free_bytes / GIB:.1f} GiB for weights and KV"
    if facts.free_bytes < LEAST_MEMORY_BYTES:
        return _fail("memory", saw, "end other programs, or use another --device")
    if facts.free_bytes < LITTLE_MEMORY_BYTES:
        return _warn("memory", saw, "it holds a layer or two of a large model: try --quantize int8")
    return _ok("memory", saw)


def port(facts: PortFacts) -> Verdict:
    """Whether the node can listen, and how to see whether it is reached: no coordinator dials back."""
    check = f"port {facts.option}"
    if facts.error:
        return _fail(check, f"{facts.listen}: {facts.error}", f"choose another with {facts.option}; port 0: a free one")
    if not facts.announced:
        return _ok(check, f"{facts.listen} can be listened on")
    if facts.is_loopback:
        return _warn(
            check,
            f"{facts.listen} can be listened on, and {facts.announced} is announced, which only this machine reaches",
            "for a swarm of several machines use --announce HOST:PORT",
        )
    return _ok(
        check,
        f"{facts.listen} can be listened on, and {facts.announced} is announced; whether others reach it can't be seen "
        "from here",
        f"once the node runs, try on another machine: osai-node health --address {facts.announced}",
    )


def coordinator(facts: CoordinatorFacts) -> Verdict:
    """Whether the coordinator answers."""
    if not facts.address:
        return _warn("coordinator", facts.error or "none was named", "osai-node doctor HOST:PORT asks that one")
    if facts.connect_s is None:
        return _fail(
            "coordinator",
            f"{facts.address}: {facts.error}",
            "is the address right, and does a firewall let it through?",
        )
    if facts.error:
        return _fail(
            "coordinator",
            f"{facts.address} answers, but not as a coordinator does: {facts.error}",
            "of a private swarm a node needs a --token; else see the coordinator's log",
        )
    saw = f"{facts.address} answers, {facts.software}, connected in {facts.connect_s * 1e3:.0f} ms"
    if facts.connect_s > FAR_S:
        return _warn("coordinator", saw, "it is far away: tokens of sessions with this node come late")
    return _ok("coordinator", saw)


def protocol(facts: CoordinatorFacts) -> Verdict:
    """Whether both speak one version."""
    if not facts.software:
        return _warn("protocol", "not known: no coordinator has answered")
    theirs, ours = facts.protocols, facts.ours
    saw = f"the coordinator speaks {theirs[0]} to {theirs[1]}, this node {ours[0]} to {ours[1]}"
    if max(theirs[0], ours[0]) > min(theirs[1], ours[1]):
        return _fail("protocol", saw, f"upgrade {'this node' if ours[1] < theirs[1] else 'the coordinator'}")
    if ours[1] < theirs[1]:
        return _warn("protocol", saw, "upgrade this node: it is not given what only newer ones can do")
    return _ok("protocol", saw)


def clock(facts: CoordinatorFacts) -> Verdict:
    """Whether this machine's clock agrees with the coordinator's."""
    if facts.ahead_s is None:
        return _warn("clock", "the coordinator's is not known", "compare by hand: timedatectl, or date -u on both")
    off_s = max(abs(facts.ahead_s) - facts.uncertain_s, 0.0)
    saw = f"{abs(facts.ahead_s):.1f} s {'ahead of' if facts.ahead_s > 0 else 'behind'} the coordinator's"
    saw = f"{saw}, give or take {facts.uncertain_s:.1f} s"
    if off_s > BAD_SKEW_S:
        return _fail("clock", saw, "set it (timedatectl set-ntp true): members don't see each other's records")
    if off_s > MAX_SKEW_S:
        return _warn("clock", saw, "set it (timedatectl set-ntp true): records are refused or end early")
    return _ok("clock", saw)


def disk(facts: DiskFacts) -> Verdict:
    """Whether weights can be kept."""
    if not facts.folder:
        return _warn("disk", "no weights are kept (--no-cache)", "every start of the node loads them over the network")
    if facts.error:
        return _fail("disk", f"{facts.folder}: {facts.error}", "choose another with --cache, or use --no-cache")
    saw = f"{facts.folder}: {facts.free_bytes / GIB:.1f} GiB free, {facts.write_bytes_s / MIB:.0f} MiB/s written"
    if facts.wanted_bytes > facts.free_bytes:
        return _fail(
            "disk", f"{saw}; --cache-size is {facts.wanted_bytes / GIB:.1f} GiB", "make room, or lower --cache-size"
        )
    if facts.free_bytes < LITTLE_DISK_BYTES:
        return _warn("disk", saw, "a span of a large model takes more: make room, or choose another --cache")
    if facts.write_bytes_s < SLOW_DISK_BYTES_S:
        return _warn("disk", saw, "it is slower than most networks: choose another --cache")
    return _ok("disk", saw)


def trust(facts: TrustFacts) -> Verdict:
    """Whether the node knows whose models to believe."""
    if facts.error:
        return _fail("trust", facts.error, "put the file right, or leave it out")
    if facts.allow_unsigned:
        return _warn("trust", "models of anybody (--allow-unsigned)", "weights are not checked against a publisher")
    if not facts.num_files:
        return _warn("trust", "the embedded model's publisher alone", "for other models: --trust KEY or KEY LIST")
    return _ok("trust", f"{facts.num_files} keys or key lists, and the embedded model's publisher")


def membership(facts: TrustFacts) -> Verdict:
    """Whether the node's own files are right."""
    if facts.state_error:
        return _fail("state", facts.state_error, "choose another --state")
    if facts.certificate_error:
        return _fail("state", facts.certificate_error, "join anew with a --token from `osai swarm invite`")
    if facts.certificate_s is None:
        more = ", and a token to join a private swarm with" if facts.has_token else ""
        return _ok("state", f"{facts.state} can be used; no certificate of a private swarm{more}")
    saw = f"{facts.state}: a member of a private swarm, whose certificate ends in {facts.certificate_s / 3600:.1f} h"
    if facts.certificate_s < CERTIFICATE_SOON_S:
        return _ok("state", saw, "a node that runs renews it by itself")
    return _ok("state", saw)


def lines_of(found: Sequence[Verdict]) -> list[str]:
    """For people: a line a check, and below it what to do."""
    lines = []
    for verdict in found:
        lines.append(f"{verdict.status:<5}{verdict.check}: {verdict.saw}")
        if verdict.todo:
            lines.append(f"     {verdict.todo}")
    return lines


def _ok(check: str, saw: str, todo: str = "") -> Verdict:
    return Verdict(check=check, status="ok", saw=saw, todo=todo)


def _warn(check: str, saw: str, todo: str = "") -> Verdict:
    return Verdict(check=check, status="warn", saw=saw, todo=todo)


def _fail(check: str, saw: str, todo: str) -> Verdict:
    return Verdict(check=check, status="fail", saw=saw, todo=todo)
