"""What a session's actions are on the edges: what is written is what stages take."""

import struct
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from coordinator.builders import stage
from osai.coordinator.plan import GenerationPlan
from osai.coordinator.sessions.actions import Follow, Open, Opened, OpenFollower, OpenKind, Resume, SendIds
from osai.coordinator.sessions.messages import SessionWriter, read_opened
from osai.coordinator.wire import write_sampling
from osai.core.frames import FrameShape, check_batch
from osai.core.prefix import shareable_hashes
from osai.core.sampling import SamplingParams
from osai.proto import common_pb2, edge_pb2

SAMPLING = SamplingParams(temperature=0.7, top_k=40, seed=2**64 - 1, repetition_penalty=1.3)
PIPELINE = (stage("a", 0, 2), stage("b", 2, 3), stage("c", 3, 6))
PLAN = GenerationPlan(prompt=(5, 6, 7), max_total_tokens=10, sampling=SAMPLING, stop_token_ids=(2, 3), stop=("x",),
                      block_hashes=(b"a" * 16, b"b" * 16))  # fmt: skip
WRITER = SessionWriter(number=2**64 - 1, model_id="m", manifest_digest=b"digest", plan=PLAN)
OPEN = Open(pipeline=PIPELINE, epoch=4, kind=OpenKind.NEW, num_prompt_tokens=3, num_known_tokens=3)
KNOWN = [5, 6, 7, 80, 81]


def test_each_stage_is_told_its_span_and_its_successor() -> None:
    opens = [message.open for message in WRITER.opens(OPEN, PLAN.prompt)]
    assert [(o.span.start, o.span.end, o.successor.node_id, o.successor.address) for o in opens] == [
        (0, 2, "b", "b:1"),
        (2, 3, "c", "c:1"),
        (3, 6, "a", "a:1"),
    ]
    for each in opens:
        assert (each.session, each.epoch, each.model_id, each.manifest_digest) == (2**64 - 1, 4, "m", b"digest")
        assert (each.num_prompt_tokens, each.max_total_tokens) == (3, 10)
        assert each.sampling == write_sampling(SAMPLING)
        assert (list(each.block_hashes), each.num_stages) == ([b"a" * 16, b"b" * 16], 3)
        assert (each.resume, each.follow, each.num_known_tokens) == (False, False, 0)
    assert [list(o.stop_token_ids) for o in opens] == [[], [], [2, 3]]
    assert [list(o.prompt_token_ids) for o in opens] == [[], [], [5, 6, 7]]  # for the penalties


def test_a_later_epoch_says_what_is_known() -> None:
    action = replace(OPEN, kind=OpenKind.RESUME, num_known_tokens=5)
    opens = [message.open for message in WRITER.opens(action, KNOWN)]
    assert [(o.resume, o.follow, o.num_prompt_tokens, o.num_known_tokens) for o in opens] == [(True, False, 3, 5)] * 3
    assert [list(o.prompt_token_ids) for o in opens] == [[], [], KNOWN]


def test_a_session_that_is_restarted_has_all_that_is_known_for_its_prompt() -> None:
    known = list(range(40))
    action = replace(OPEN, kind=OpenKind.RESTART, num_prompt_tokens=40, num_known_tokens=40)
    for message in WRITER.opens(action, known):
        assert (message.open.num_prompt_tokens, message.open.resume, message.open.num_known_tokens) == (40, False, 0)
        assert tuple(message.open.block_hashes) == shareable_hashes(known)


def test_a_follower_is_opened_as_its_stage_was() -> None:
    follower = stage("c2", 3, 6)
    action = OpenFollower(
        follower=follower, index=2, pipeline=PIPELINE, epoch=4, resume=True, num_prompt_tokens=3, num_known_tokens=5
    )
    opened = WRITER.open_follower(action, KNOWN).open
    assert (opened.span.start, opened.span.end, opened.successor.node_id) == (3, 6, "a")
    assert (opened.follow, opened.resume, opened.num_known_tokens, opened.num_stages) == (True, True, 5, 3)
    assert list(opened.stop_token_ids) == [2, 3]


def test_the_tail_gets_the_prompt_only_for_penalties() -> None:
    plan = GenerationPlan(prompt=(5,), max_total_tokens=2, sampling=SamplingParams(), stop_token_ids=(), stop=())
    action = replace(OPEN, pipeline=(stage("a", 0, 6),), num_prompt_tokens=1, num_known_tokens=1)
    (alone,) = replace(WRITER, plan=plan).opens(action, plan.prompt)
    assert list(alone.open.prompt_token_ids) == []
    assert alone.open.successor.node_id == "a"


def test_where_a_stage_goes_on_and_whom_it_lets_follow() -> None:
    resumed = WRITER.resume(Resume(stage=PIPELINE[0], epoch=4, position=9, push_from=5)).resume
    assert (resumed.session, resumed.epoch, resumed.position, resumed.push_from) == (2**64 - 1, 4, 9, 5)
    assert not resumed.HasField("follower")
    followed = WRITER.follow(Follow(stage=PIPELINE[0], epoch=4, follower=stage("b2", 2, 3), follow_from=5)).follow
    assert (followed.epoch, followed.follower.node_id, followed.follower.address) == (4, "b2", "b2:1")
    assert followed.follow_from == 5
    assert not WRITER.follow(Follow(stage=PIPELINE[0], epoch=4, follower=None)).follow.HasField("follower")


@given(known=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20), data=st.data())
def test_ids_are_a_frame_that_the_head_takes(known: list[int], data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(known) - 1))
    end = data.draw(st.integers(position + 1, len(known)))
    batch = WRITER.ids(SendIds(stage=PIPELINE[0], epoch=3, position=position, end=end), known).frames
    check_batch(batch, FrameShape(dtype=common_pb2.DTYPE_INT32, hidden_size=None))
    (frame,) = batch.frames
    assert (frame.session, frame.epoch, frame.position, frame.count) == (2**64 - 1, 3, position, end - position)
    assert list(struct.unpack(f"<{frame.count}i", batch.data)) == known[position:end]


def test_a_close_names_its_session_its_epoch_and_its_blocks() -> None:
    assert WRITER.close(7).close == edge_pb2.CloseSession(session=2**64 - 1, epoch=7)
    hashes = [b"a", b"b"]
    assert WRITER.close(7, hashes).close == edge_pb2.CloseSession(session=2**64 - 1, epoch=7, block_hashes=hashes)


def test_an_answer_is_read_whole() -> None:
    message = edge_pb2.SessionOpened(session=1, epoch=2, num_cached_tokens=16, position=9, journal_begin=3)
    assert read_opened(message) == Opened(epoch=2, num_cached_tokens=16, position=9, journal_begin=3)
