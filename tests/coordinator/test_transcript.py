"""What a client sees of a generation's tokens: text in step, stop strings held back, times."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.builders import EOS
from osai.coordinator.api import Chunk, Finished, GeneratedToken, KnownToken
from osai.coordinator.plan import GenerationPlan
from osai.coordinator.sessions.session import TokenEvent
from osai.coordinator.text import Tokenizer
from osai.coordinator.transcript import Transcript
from osai.core.errors import ContextExceededError
from osai.core.sampling import SamplingParams

PLAN = GenerationPlan(prompt=(60, 61), max_total_tokens=64, sampling=SamplingParams(), stop_token_ids=(EOS,), stop=())


def transcript(tokenizer: Tokenizer, *stops: str) -> Transcript:
    return Transcript(tokenizer, replace(PLAN, stop=stops), started_s=10.0)


def chunks(it: Transcript, token_ids: tuple[int, ...], finish: str | None = "length") -> list[Chunk]:
    last = len(token_ids) - 1
    return [
        it.add(TokenEvent(epoch=1, index=i, token_id=token, finish=finish if i == last else None), 11.0 + i)
        for i, token in enumerate(token_ids)
    ]


def test_text_and_tokens_come_in_step(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("The fox 你好 \N{GRINNING FACE}")
    found = chunks(transcript(tokenizer), tokens)
    assert "".join(chunk.text for chunk in found) == "The fox 你好 \N{GRINNING FACE}"
    assert [chunk.index for chunk in found] == list(range(len(tokens)))
    assert [chunk.tokens for chunk in found] == [(GeneratedToken(token_id=token, text=""),) for token in tokens]


def test_an_unfinished_character_comes_with_the_last_token(tokenizer: Tokenizer) -> None:
    tokens = tokenizer._tokenizer.convert_tokens_to_ids(["a", "ð", "Ł"])  # a, and half of an emoji
    assert [chunk.text for chunk in chunks(transcript(tokenizer), tuple(tokens))] == ["a", "", "\ufffd"]


def test_what_was_held_back_for_a_stop_string_comes_with_the_last_token(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("x\n")
    it = transcript(tokenizer, "\n\n")
    assert [chunk.text for chunk in chunks(it, tokens)] == ["x", "\n"]
    assert not it.stopped


def test_the_text_ends_before_a_stop_string(tokenizer: Tokenizer) -> None:
    it = transcript(tokenizer, "brown")
    found = chunks(it, tokenizer.encode("The quick brown fox"), finish=None)
    assert "".join(chunk.text for chunk in found) == "The quick "
    assert it.stopped


def test_a_stop_string_of_the_last_token_stops(tokenizer: Tokenizer) -> None:
    tokens = tokenizer._tokenizer.convert_tokens_to_ids(["a", "ð", "Ł"])
    it = transcript(tokenizer, "\ufffd")  # complete only once no more bytes can come
    assert [chunk.text for chunk in chunks(it, tuple(tokens))] == ["a", "", ""]
    assert it.stopped


def test_the_end_of_sequence_has_no_text(tokenizer: Tokenizer) -> None:
    found = chunks(transcript(tokenizer), (*tokenizer.encode("fox"), EOS), finish="stop")
    assert [chunk.text for chunk in found][-1] == ""
    assert found[-1].tokens == (GeneratedToken(token_id=EOS, text=""),)


def test_logprobs_name_their_tokens(tokenizer: Tokenizer) -> None:
    fox, the = tokenizer.encode("fox")[0], tokenizer.encode(" the")[0]
    token = TokenEvent(epoch=1, index=0, token_id=fox, logprob=-0.5, top=((fox, -0.5), (the, -1.5)))
    (described,) = transcript(tokenizer).add(token, 11.0).tokens
    texts = [tokenizer.token_text(fox), tokenizer.token_text(the)]
    assert described == GeneratedToken(
        token_id=fox, text=texts[0], logprob=-0.5, top=((fox, texts[0], -0.5), (the, texts[1], -1.5))
    )


@pytest.mark.parametrize(("num_tokens", "rate"), [(1, 0.0), (2, 1.0), (5, 1.0)])
def test_times_are_from_the_request_and_between_tokens(tokenizer: Tokenizer, num_tokens: int, rate: float) -> None:
    it = transcript(tokenizer)
    chunks(it, (60,) * num_tokens)
    assert it.finished("length") == Finished(
        reason="length",
        num_prompt_tokens=2,
        num_generated_tokens=num_tokens,
        ttft_s=1.0,
        decode_tokens_per_s=rate,
    )


def known(*token_ids: int) -> tuple[KnownToken, ...]:
    return tuple(KnownToken(token_id=token_id) for token_id in token_ids)


def until_stopped(it: Transcript, token_ids: tuple[int, ...], finish: str | None) -> list[Chunk]:
    """Chunks of the tokens, as far as they are asked for."""
    found: list[Chunk] = []
    for i, token_id in enumerate(token_ids):
        last = i == len(token_ids) - 1
        found.append(it.add(TokenEvent(epoch=1, index=i, token_id=token_id, finish=finish if last else None), 11.0))
        if it.stopped:
            break
    return found


shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.lists(
    st.sampled_from(["you ", "\u4f60\u597d", "\N{GRINNING FACE}", "\u00e9", "e\u0301", " ", "\n", "fox", "x", "xx"])
    | st.text(max_size=4),
    max_size=8,
).map("".join)
STOPS = st.lists(st.sampled_from(["\n\n", "xx", "fox you", "\u597d", "\ufffd", " x"]) | st.text(min_size=1, max_size=3))


@shared
@given(text=TEXTS, cut=st.lists(st.integers(0, 419), max_size=5), stops=STOPS, finish=st.sampled_from([None, "length"]))
def test_after_a_replay_the_text_goes_on_exactly(
    tokenizer: Tokenizer, text: str, cut: list[int], stops: list[str], finish: str | None
) -> None:
    """From whichever token on: also amid a character, or amid what may become a stop string."""
    token_ids = (*tokenizer.encode(text), *(token for token in cut if token != EOS))
    undisturbed = transcript(tokenizer, *stops)
    found = until_stopped(undisturbed, token_ids, finish)
    for num_known in range(len(found) + 1):
        again = transcript(tokenizer, *stops)
        again.replay(known(*token_ids[:num_known]))
        if num_known == len(found):
            # what ended at the last token alone, by the flush at its end or the plan's length, is its end too
            assert again.stopped == undisturbed.stopped or finish is not None or again.reason == "length"
            continue
        assert not again.stopped
        assert until_stopped(again, token_ids[num_known:], finish) == found[num_known:]
        assert again.stopped == undisturbed.stopped


@pytest.mark.parametrize(
    ("token_ids", "stops", "reason"),
    [
        ((60,), (), None),
        ((60, EOS), (), "stop"),
        ((60,) * 62, (), "length"),
        ((*(60,) * 61, EOS), (), "stop"),
        ((), (), None),
    ],
)
def test_replayed_tokens_that_end_the_generation_say_so(
    tokenizer: Tokenizer, token_ids: tuple[int, ...], stops: tuple[str, ...], reason: str | None
) -> None:
    it = transcript(tokenizer, *stops)
    it.replay(known(*token_ids))
    assert (it.stopped, it.reason) == (reason is not None, reason)
    if reason:
        assert it.finished(reason).num_generated_tokens == len(token_ids)


def test_a_stop_string_among_replayed_tokens_stops(tokenizer: Tokenizer) -> None:
    it = transcript(tokenizer, "brown")
    it.replay(known(*tokenizer.encode("The quick brown")))
    assert (it.stopped, it.reason) == (True, "stop")


def test_a_stop_string_that_the_end_completes_stops_in_a_replay_too(tokenizer: Tokenizer) -> None:
    half = tokenizer._tokenizer.convert_tokens_to_ids(["\u00f0", "\u0141"])
    it = transcript(tokenizer, "\ufffd")
    it.replay(known(*(60,) * 60, *half))
    assert it.reason == "stop"  # as when it was generated, and not "length"


def test_more_tokens_than_the_generation_may_have_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ContextExceededError, match="63 tokens are known of a generation that may have 62"):
        transcript(tokenizer).replay(known(*(60,) * 63))


def test_times_are_of_the_new_tokens_and_counts_of_all(tokenizer: Tokenizer) -> None:
    it = transcript(tokenizer)
    it.replay(known(*(60,) * 10))
    found = chunks(it, (60,) * 3)
    assert [chunk.index for chunk in found] == [10, 11, 12]
    done = it.finished("length", num_recoveries=2)
    assert (done.num_generated_tokens, done.ttft_s, done.decode_tokens_per_s, done.num_recoveries) == (13, 1.0, 1.0, 2)
