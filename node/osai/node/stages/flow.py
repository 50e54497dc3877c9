"""What follows from one step of the engine: rows to be kept and pushed, tokens to be delivered. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from osai.node.engine.api import Rows, Sampled
from osai.node.stages.sessions import StageSession, Way
from osai.node.stages.stage import Action, Deliver, Forward, Keep, Peer, Return

Sessions = Mapping[int, StageSession]
_Lane = tuple[Way, bool, list[Rows], list[tuple[int, int]]]  # one of its ways, prefill, rows, slices


def tokens(sessions: Sessions, sampled: Iterable[Sampled]) -> list[Action]:
    """Drawn tokens for their owners, and for the heads as their next inputs; no standby's, and none of older epochs."""
    by_owner: dict[int, list[Sampled]] = {}
    by_head: dict[Peer, list[tuple[Rows, int]]] = {}
    for token in sampled:
        entry = sessions.get(token.session)
        if entry is None or entry.epoch != token.epoch or entry.request.follow or entry.owner is None:
            continue
        by_owner.setdefault(entry.owner, []).append(token)
        if token.finish is None and entry.successor is not None:
            position = entry.request.num_prompt_tokens + token.index
            rows = Rows(session=token.session, epoch=token.epoch, position=position, count=1)
            by_head.setdefault(entry.successor.peer, []).append((rows, token.token_id))
    delivered = [Deliver(owner=owner, tokens=tuple(drawn)) for owner, drawn in by_owner.items()]
    returned = [
        Return(peer=peer, rows=tuple(rows for rows, _ in pairs), token_ids=tuple(token for _, token in pairs))
        for peer, pairs in by_head.items()
    ]
    return [*delivered, *returned]


def landed(sessions: Sessions, rows: Iterable[Rows]) -> list[Action]:
    """Rows of one span have come out of the engine, packed in this order."""
    live: list[tuple[StageSession, Rows, int]] = []
    at = 0
    for part in rows:
        entry = sessions.get(part.session)
        if entry is not None and entry.request.epoch == part.epoch:
            entry.landed = part.position + part.count
            live.append((entry, part, at))
        at += part.count
    if not live or live[0][0].is_tail:
        return []
    kept = Keep(rows=tuple(part for _, part, _ in live), starts=tuple(start for _, _, start in live))
    return [kept, *_forwards(live)]


def _forwards(live: Iterable[tuple[StageSession, Rows, int]]) -> Iterator[Forward]:
    lanes: dict[str, _Lane] = {}
    for entry, part, at in live:
        if entry.owner is None:  # what an orphan's successor misses, it gets from the journal
            continue
        if (way := entry.successor) is not None and not way.replaying:
            # the last known row too, alone or not: rows of one session must not overtake each other
            prefill = part.count > 1 or part.position < entry.num_known
            _add(lanes, way.prefill if prefill else way.decode, way, prefill, part, at)
        if (way := entry.follower) is not None and not way.replaying:  # by one lane: nobody waits for what it does
            _add(lanes, way.prefill, way, True, part, at)
    for way, prefill, parts, slices in lanes.values():
        yield Forward(peer=way.peer, prefill=prefill, rows=tuple(parts), slices=tuple(slices))


def _add(lanes: dict[str, _Lane], name: str, way: Way, prefill: bool, part: Rows, at: int) -> None:
    """Put rows, at `at` in the step, on a lane: those that its way has not had."""
    end, count = part.position + part.count, part.count
    if part.position < way.next_row:
        if end <= way.next_row:
            return
        part, at = replace(part, position=way.next_row, count=end - way.next_row), at + way.next_row - part.position
        count = part.count
    way.next_row = end
    lane = lanes.get(name)
    if lane is None:
        lanes[name] = (way, prefill, [part], [(at, at + count)])
        return
    slices = lane[3]
    lane[2].append(part)
    if slices[-1][1] == at:  # neighbours are one slice
        slices[-1] = (slices[-1][0], at + count)
    else:
        slices.append((at, at + count))
