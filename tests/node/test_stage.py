"""The stage table: what follows from opens, frames, steps and losses."""

from dataclasses import replace

import pytest

from node.stage_requests import HEAD, NEXT, kept, request, rows, step, table
from osai.core.errors import (
    AssignmentError,
    InternalError,
    InvalidRequestError,
    UnavailableError,
    UnknownSessionError,
)
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Sampled, StepOutput
from osai.node.stages.stage import Deliver, Fail, Forward, OpenRequest, Release, Return


def test_only_the_tail_gets_what_sampling_needs() -> None:
    middle = table().open(request(), owner=7, scope="c").spec
    tail = table(4, 6).open(request(layers=LayerRange(4, 6), successor=HEAD), owner=7, scope="c").spec
    assert (middle.sampling, middle.stop_token_ids, middle.prompt_token_ids) == (None, frozenset(), ())
    assert tail.sampling == SamplingParams(temperature=1.0)
    assert tail.stop_token_ids == {2}
    assert tail.prompt_token_ids == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (request(layers=LayerRange(0, 2)), "this node serves layers 2:4"),
        (replace(request(), model_id="other"), "none of it"),
        (replace(request(), manifest_digest=b"x" * 32), "digests differ"),
    ],
)
def test_a_session_for_what_the_node_does_not_serve_is_refused(wrong: OpenRequest, reason: str) -> None:
    with pytest.raises(AssignmentError, match=reason):
        table().open(wrong, owner=7, scope="c")


def test_the_engine_is_told_what_may_be_shared_with_whom() -> None:
    hashes = (b"a" * 16, b"b" * 16)
    spec = table().open(replace(request(), block_hashes=hashes, num_stages=3), owner=7, scope="the coordinator").spec
    assert (spec.block_hashes, spec.scope, spec.num_stages) == (hashes, "the coordinator", 3)


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="7 stages are more than 6 layers"):
        table().open(replace(request(), num_stages=7), owner=7, scope="c")


def test_only_the_owner_names_blocks_and_no_more_than_the_session_can_have() -> None:
    stages = table()
    stages.open(replace(request(), max_total_tokens=40), owner=7, scope="c")
    assert [stages.num_nameable_blocks(1, owner) for owner in (7, 8)] == [2, 0]
    assert stages.num_nameable_blocks(99, 7) == 0
    assert stages.close(1, (b"a" * 16,)) == [Release(session=1, block_hashes=(b"a" * 16,))]
    assert stages.close(1, (b"a" * 16,)) == []


def test_a_session_is_opened_once() -> None:
    stages = table()
    stages.open(request(), owner=7, scope="c")
    with pytest.raises(AssignmentError, match="already open"):
        stages.open(request(), owner=8, scope="c")


def test_a_frame_of_a_session_never_opened_is_an_error_and_one_of_a_closed_session_is_dropped() -> None:
    stages = table()
    with pytest.raises(UnknownSessionError, match="0000000000000001"):
        stages.span_of(rows())
    stages.open(request(), owner=7, scope="c")
    assert stages.span_of(rows()) is not None
    stages.close(1)
    assert stages.span_of(rows()) is None


def test_a_frame_of_another_epoch_is_dropped() -> None:
    stages = table()
    stages.open(request(), owner=7, scope="c")
    assert stages.span_of(rows(epoch=0)) is None


def test_a_step_pushes_decode_and_prefill_rows_on_their_own_lanes() -> None:
    stages = table()
    for session in (1, 2, 3):
        stages.open(request(session), owner=7, scope="c")
    parts = (rows(1), rows(2, position=0, count=3), rows(3, position=4, count=1))
    keep, decode, prefill = stages.stepped(step(*parts))
    assert keep == kept(parts, 0, 1, 4)
    assert decode == Forward(peer=NEXT, prefill=False, rows=(parts[0], parts[2]), slices=((0, 1), (4, 5)))
    assert prefill == Forward(peer=NEXT, prefill=True, rows=(parts[1],), slices=((1, 4),))


def test_neighbouring_rows_are_one_slice() -> None:
    stages = table()
    for session in (1, 2, 3, 4):
        stages.open(request(session, successor=HEAD if session == 3 else NEXT), owner=7, scope="c")
    keep, first, second = stages.stepped(step(rows(1), rows(2), rows(3), rows(4), rows(1, position=5)))
    assert keep == kept((rows(1), rows(2), rows(3), rows(4), rows(1, position=5)), 0, 1, 2, 3, 4)
    assert first == Forward(
        peer=NEXT, prefill=False, rows=(rows(1), rows(2), rows(4), rows(1, position=5)), slices=((0, 2), (3, 5))
    )
    assert second == Forward(peer=HEAD, prefill=False, rows=(rows(3),), slices=((2, 3),))


def test_the_last_row_of_a_prompt_does_not_overtake_the_chunk_before_it() -> None:
    """Alone in its step, it went on the decode lane, and could reach the successor first."""
    stages = table()
    stages.open(request(), owner=7, scope="c")
    _, chunk = stages.stepped(step(rows(position=0, count=3)))
    _, last = stages.stepped(step(rows(position=3, count=1)))
    assert isinstance(chunk, Forward)
    assert isinstance(last, Forward)
    assert (chunk.prefill, last.prefill) == (True, True)


def test_a_drawn_token_goes_to_its_owner_and_back_to_the_head() -> None:
    stages = table(4, 6)
    stages.open(request(layers=LayerRange(4, 6), successor=HEAD), owner=7, scope="c")
    token = Sampled(session=1, epoch=1, index=2, token_id=42)
    assert stages.stepped(step(rows(), sampled=(token,))) == [
        Deliver(owner=7, tokens=(token,)),
        Return(peer=HEAD, rows=(rows(position=6),), token_ids=(42,)),
    ]


def test_the_last_token_is_not_returned() -> None:
    stages = table(4, 6)
    stages.open(request(layers=LayerRange(4, 6), successor=HEAD), owner=7, scope="c")
    token = Sampled(session=1, epoch=1, index=5, token_id=2, finish="stop")
    assert stages.stepped(step(rows(), sampled=(token,))) == [Deliver(owner=7, tokens=(token,))]


def test_rows_of_sessions_closed_meanwhile_go_nowhere() -> None:
    stages = table()
    stages.open(request(1), owner=7, scope="c")
    stages.open(request(2), owner=7, scope="c")
    stages.close(1)
    keep, forward = stages.stepped(step(rows(1, count=2), rows(2)))
    assert keep == kept((rows(2),), 2)
    assert forward == Forward(peer=NEXT, prefill=False, rows=(rows(2),), slices=((2, 3),))


def test_a_failed_session_is_told_and_released_and_the_others_go_on() -> None:
    stages = table()
    stages.open(request(1), owner=7, scope="c")
    stages.open(request(2), owner=8, scope="c")
    error = InternalError("boom")
    output = StepOutput(span="m", rows=(rows(2),), hidden=None, failed=((rows(1), error),))
    fail, release, keep, forward = stages.stepped(output)
    assert fail == Fail(owner=7, session=1, epoch=1, error=error, open=False)
    assert release == Release(session=1)
    assert keep == kept((rows(2),), 0)
    assert isinstance(forward, Forward)
    assert stages.num_sessions == 1


def test_a_lost_owner_leaves_orphans_for_which_nothing_is_run_or_pushed() -> None:
    stages = table()
    stages.open(request(1), owner=7, scope="c")
    stages.open(request(2), owner=8, scope="c")
    stages.owner_lost(7, now_s=100.0)
    assert stages.num_sessions == 1
    assert stages.span_of(rows(1)) is None
    assert stages.take(rows(1)) == "drop"
    keep, forward = stages.stepped(step(rows(1), rows(2)))  # the step was in hand
    assert keep == kept((rows(1), rows(2)), 0, 1), "who adopts the orphan needs what came out"
    assert forward == Forward(peer=NEXT, prefill=False, rows=(rows(2),), slices=((1, 2),))


def test_a_lost_successor_is_told_to_the_owner_and_what_is_here_stays() -> None:
    stages = table()
    stages.open(request(1), owner=7, scope="c")
    stages.open(request(2, successor=HEAD), owner=8, scope="c")
    (fail,) = stages.peer_lost("next")
    assert isinstance(fail, Fail)
    assert (fail.owner, fail.session, fail.epoch, fail.open) == (7, 1, 1, True)
    assert isinstance(fail.error, UnavailableError)
    assert fail.error.subject == "next"
    assert stages.num_sessions == 2
    assert stages.peer_lost("next") == [], "once is enough"
    assert stages.stepped(step(rows(1))) == [kept((rows(1),), 0)], "it is pushed to nobody any more"
