"""What becomes of one group's blocks when its session is cut back. Pure.

A block that is known to hold certain tokens is never written: one that rows will go to is given up, and a fresh one
takes its place, with a copy of what it holds where rows before the cut lie in it.
"""

from osai.core.errors import InvalidRequestError
from osai.node.engine.kv_blocks import BlockPool
from osai.node.engine.kv_table import GroupBlocks, SessionBlocks


def restored(
    pool: BlockPool, session: SessionBlocks, group: GroupBlocks, position: int, block_size: int
) -> list[int] | None:
    """Known blocks that bring back what the row at `position` sees; None if the group has never let go of it.

    Raises:
        InvalidRequestError: if it has, and they are not known any more.
    """
    first_key = group.window.first_key(position)
    first, end = first_key // block_size, -(-position // block_size)
    if first_key == position or group.first <= first:
        return None
    found = []
    for number in range(first, end):
        block = group.at(number)
        if block is None and number < len(session.hashes):
            block = pool.find((group.group, session.scope, session.hashes[number]))
        if block is None:
            least = group.window.first_position(group.first * block_size)
            raise InvalidRequestError(
                f"the session can't be cut to {position}: layers that see {group.window.size} tokens have let go of "
                f"what comes before it; cut it to {least} or later, or to 0"
            )
        found.append(block)
    return found


def cut_group(
    pool: BlockPool, session: SessionBlocks, group: GroupBlocks, position: int, block_size: int
) -> list[tuple[int, int]]:
    """Make room for other rows from `position` on; what may stay has been checked.

    Returns:
        (from, to): the block to copy, if there is one.
    """
    number, offset = divmod(position, block_size)
    back = restored(pool, session, group, position, block_size)
    if back is not None:
        for block in set(back).difference(group.blocks):
            pool.share(block)
        pool.give([block for block in reversed(group.blocks) if block not in back])
        group.replace(group.window.first_key(position) // block_size, back)
    if number < group.first:  # the row at `position` sees nothing before it
        pool.give(reversed(group.blocks))
        group.replace(number, [])
    at = number - group.first
    kept, later = group.blocks[:at], group.blocks[at:]
    if not group.is_full:  # others come as they are needed
        stays = 1 if offset else 0
        pool.give(reversed(later[stays:]))
        later = later[:stays]
    if not later:
        group.replace(group.first, kept)
        return []
    given = [block for block in later if not pool.is_writable(block)]
    pool.give(reversed(given))
    fresh = iter(pool.take(len(given), group.group))
    known = set(given)
    replaced = [next(fresh) if block in known else block for block in later]
    group.replace(group.first, kept + replaced)
    return [(later[0], replaced[0])] if offset and later[0] != replaced[0] else []
