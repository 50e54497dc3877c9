"""What a client keeps of a generation, and how it asks for the rest: pure."""

import pytest

from client.fake_coordinator import chunk, finished, started
from osai.client import Finished, Rerouted, partial_of
from osai.client.progress import MAX_ATTEMPT, Progress
from osai.core.errors import BadFrameError, UnavailableError
from osai.core.rpc import CLIENT_API_MAX_BYTES
from osai.proto import client_pb2, common_pb2

REQUEST = client_pb2.GenerateRequest(prompt="x", max_tokens=5)


def begun(now_s: float = 0.0) -> Progress:
    it = Progress(REQUEST, now_s)
    assert it.next_request() is REQUEST
    it.accept(started(), now_s)
    return it


def test_the_request_is_the_same_but_for_what_is_known() -> None:
    it = begun()
    it.accept(chunk(0, [4, 5], "ab"), 1.0)
    request = it.next_request()
    resume = request.resume
    request.ClearField("resume")
    assert request == client_pb2.GenerateRequest(prompt="x", max_tokens=5, model_id="m")
    assert ([token.token_id for token in resume.tokens], resume.session_id, resume.seed) == ([4, 5], "s1", 7)
    assert not REQUEST.HasField("resume")


def test_times_of_more_than_one_coordinator_are_the_callers_own() -> None:
    it = begun(100.0)
    it.accept(chunk(0, [4], "a"), 101.0)
    it.accept(chunk(1, [5], "b"), 102.0)
    it.lost("reset", 103.0)
    it.lost("refused", 104.0)
    it.next_request()
    moved = it.accept(started(session_id="another"), 106.5)
    assert isinstance(moved, Rerouted)
    assert moved.pause_s == 3.5
    assert "reset" in moved.reason
    it.accept(chunk(2, [6], "c"), 105.0)
    it.accept(chunk(3, [7], "d"), 107.0)
    last = it.accept(finished(4), 107.0)
    assert isinstance(last, Finished)
    assert (last.timings.ttft_s, last.timings.decode_tokens_per_s) == (1.0, 0.5)
    assert it.next_request().resume.session_id == "another"  # it is known by that number now


def test_an_error_has_what_there_is() -> None:
    it = begun(100.0)
    it.accept(chunk(0, [4, 5], "ab"), 101.0)
    error = UnavailableError("gone")
    it.failed(error)
    partial = partial_of(error)
    assert partial is not None
    assert (partial.text, partial.token_ids, partial.timings.ttft_s) == ("ab", (4, 5), 1.0)
    assert partial.usage.num_prompt_tokens == 4
    assert partial_of(UnavailableError("before")) is None


def test_logprobs_stay_behind_where_the_request_would_be_too_large() -> None:
    top = [common_pb2.TokenLogprob(token_id=100_000 + i, logprob=-1.0) for i in range(20)]
    it = Progress(REQUEST, 0.0)
    it.next_request()
    it.accept(started(), 0.0)
    for i in range(20):
        it.accept(chunk(1000 * i, [100_000] * 1000, "x", logprob=-1.0, top=top), 1.0)
    resume = it.next_request()
    assert resume.ByteSize() <= CLIENT_API_MAX_BYTES
    assert len(resume.resume.tokens) == 20_000
    assert resume.resume.tokens[0].HasField("logprob")
    assert not resume.resume.tokens[0].top


def test_attempts_end_before_their_number_does() -> None:
    it = begun()
    it._attempt = MAX_ATTEMPT - 1
    assert it.next_request().resume.attempt == MAX_ATTEMPT
    with pytest.raises(UnavailableError, match="begin it anew"):
        it.next_request()


def test_tokens_that_are_known_already_are_not_taken_again() -> None:
    it = begun()
    it.accept(chunk(0, [4], "a"), 1.0)
    it.next_request()
    it.accept(started(), 2.0)
    with pytest.raises(BadFrameError, match="token 0 arrived where token 1 was due"):
        it.accept(chunk(0, [4], "a"), 2.0)
