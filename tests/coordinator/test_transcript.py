"""What a client sees of a generation's tokens: text in step, stop strings held back, times."""

from dataclasses import replace

import pytest

from coordinator.builders import EOS
from osai.coordinator.api import Chunk, Finished, GeneratedToken
from osai.coordinator.plan import GenerationPlan
from osai.coordinator.session import TokenEvent
from osai.coordinator.text import Tokenizer
from osai.coordinator.transcript import Transcript
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
