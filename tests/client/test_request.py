"""Requests and event streams as pure functions: what fits the wire, what order is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.fake_coordinator import Event, chunk, finished, started
from client.long_generation import rerouted, waiting
from osai.client import ChatMessage, Finished, GenerationOptions, Prompt, Timeouts
from osai.client.request import to_proto
from osai.client.stream import GenerationStream
from osai.core.errors import BadFrameError, InvalidRequestError, UnavailableError
from osai.proto import client_pb2

ANY_INT = st.integers(-(2**70), 2**70)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (GenerationOptions(seed=-1), "seed is -1"),
        (GenerationOptions(seed=2**64), "seed"),
        (GenerationOptions(max_tokens=2**63), "max_tokens"),
        (GenerationOptions(top_k=-(2**70)), "top_k"),
        (GenerationOptions(num_logprobs=2**63), "num_logprobs"),
        (GenerationOptions(stop_token_ids=[2**32]), "stop token id"),
        (GenerationOptions(stop=["\ud800"]), "can't be written"),
    ],
)
def test_value_that_does_not_fit_the_wire_is_named(options: GenerationOptions, named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        to_proto("x", options)


@pytest.mark.parametrize("prompt", [[], (), [-1], [2**32], [True], ["text"], [1, ChatMessage(role="user", content="")]])
def test_prompt_of_another_kind_is_refused(prompt: Prompt) -> None:
    with pytest.raises(InvalidRequestError):
        to_proto(prompt, {})


def test_prompt_over_the_message_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidRequestError, match="shorten the prompt"):
        to_proto("x" * (4 * 2**20), {})


def test_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="temprature"):
        to_proto("x", {"temprature": 1.0})  # type: ignore[typeddict-unknown-key]


def test_empty_prompt_is_the_coordinators_to_judge() -> None:
    assert to_proto("", {}).WhichOneof("input") == "prompt"


@given(seed=ANY_INT, max_tokens=ANY_INT, token_ids=st.lists(ANY_INT, min_size=1), text=st.text())
def test_any_numbers_make_a_request_or_a_typed_error(
    seed: int, max_tokens: int, token_ids: list[int], text: str
) -> None:
    try:
        request = to_proto(token_ids, {"seed": seed, "max_tokens": max_tokens, "stop": text})
    except InvalidRequestError:
        return
    assert list(request.token_ids.ids) == token_ids
    assert (request.sampling.seed, request.max_tokens, list(request.stop)) == (seed, max_tokens, [text])


@pytest.mark.parametrize("name", ["connect_s", "call_s", "first_token_s", "next_token_s", "resume_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_deadline_must_be_above_zero(name: str, value: float) -> None:
    if (name, value) == ("resume_s", 0.0):
        assert Timeouts(resume_s=0).resume_s == 0  # never
        return
    with pytest.raises(InvalidRequestError, match=name):
        Timeouts(**{name: value})


EVENTS = st.one_of(
    st.just(started()),
    st.builds(chunk, st.integers(0, 3), st.lists(st.integers(0, 9), max_size=2), st.text(max_size=2)),
    st.builds(finished, st.integers(0, 4)),
    st.just(waiting(1.0)),
    st.just(rerouted("a")),
    st.just(Event()),
    st.binary(max_size=20).map(lambda data: Event(chunk=client_pb2.Chunk(index=len(data)))),
)


@given(st.lists(EVENTS, max_size=6))
def test_only_a_whole_stream_is_complete(events: list[Event]) -> None:
    """Accepted to the end means: one Started, contiguous tokens, one Finished that counts them, nothing after it."""
    stream = GenerationStream()
    try:
        accepted = [stream.accept(event) for event in events]
        stream.end()
    except (BadFrameError, UnavailableError):
        return
    while events[0].HasField("waiting"):  # which may come before the start
        events = events[1:]
    told = [event for event in events if not (event.HasField("waiting") or event.HasField("rerouted"))]
    kinds = [event.WhichOneof("kind") for event in told]
    assert kinds == ["started", *["chunk"] * (len(told) - 2), "finished"]
    assert (events[0], events[-1]) == (told[0], told[-1])
    num_tokens = 0
    for event in told[1:-1]:
        assert event.chunk.index == num_tokens
        num_tokens += len(event.chunk.tokens)
    last = accepted[-1]
    assert isinstance(last, Finished)
    assert last.usage.num_generated_tokens == num_tokens


@given(st.lists(st.integers(0, 3), max_size=5))
def test_every_well_formed_stream_is_complete(counts: list[int]) -> None:
    stream = GenerationStream()
    stream.accept(started())
    for i, count in enumerate(counts):
        stream.accept(chunk(sum(counts[:i]), [7] * count, "x"))
    stream.accept(finished(sum(counts)))
    stream.end()
