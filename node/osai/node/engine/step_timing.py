"""When a step had better wait a little, and what a step of prompts may take. Pure."""

from collections.abc import Sequence

from osai.node.engine.step_groups import Away

_MERGE_GAIN = 4.0  # times that a row's shorter wait counts against another's longer one: the gain lasts
_TOLERANCE = 0.15  # of a step: rows are as much as this late
_PROMPT_TOLERANCE = 0.1  # of a decode step: by so much a step of prompts may end after the decode row is due
_LOST_AFTER = 3.0  # times its usual time away, a decode row is no longer waited for


def merge_until(now_s: float, num_waiting: int, room: int, away: Sequence[Away], step_s: float) -> float | None:
    """Until when a step of `num_waiting` decode rows had better wait for others, which are soon back; None to go now.

    If it went, those that come meanwhile would wait for its end and then make a step of their own: small groups would
    stay small, and be more than there are stages. Waiting costs those that are here, once.

    Args:
        now_s: now.
        num_waiting: decode rows that could go.
        room: how many more the step could take.
        away: the decode rows at other stages.
        step_s: what the step should take.
    """
    best, until_s, gain_s = 0.0, None, 0.0
    due = sorted(due_s for row in away if (due_s := row.due_s()) >= now_s - _TOLERANCE * step_s)
    for due_s in due[:room]:
        wait_s = max(due_s - now_s, 0.0)
        gain_s += step_s - wait_s
        if wait_s >= step_s:
            break
        if (net := _MERGE_GAIN * gain_s - num_waiting * wait_s) > best:
            best, until_s = net, due_s + _TOLERANCE * step_s
    return until_s


def prompt_window(now_s: float, away: Sequence[Away], decode_s: float, stretch: float) -> tuple[float, float] | None:
    """For a step of prompts alone, while all decode rows are away.

    A decode row whose way takes up to `stretch` times its usual time, because prompts run at the other stages too,
    finds this stage idle.

    Args:
        now_s: now.
        away: the decode rows at other stages.
        decode_s: what a step of decode rows takes.
        stretch: by how much a decode row's round may take longer than without prompts.

    Returns:
        When the step should end, and until when to wait for a decode row if no step is so short; None if no decode row
        is expected.
    """
    windows = [(row.due_s(stretch) + _PROMPT_TOLERANCE * decode_s, row.due_s(_LOST_AFTER)) for row in away]
    return min((window for window in windows if window[1] > now_s), default=None)
