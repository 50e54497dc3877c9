"""Prompts to token ids, tokens to text in pieces, stop strings: nothing is lost, cut in two or let through."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.builders import EOS, SPECIAL_TOKENS, train_byte_level
from osai.coordinator.api import ChatMessage
from osai.coordinator.text import UNFINISHED, Detokenizer, StopMatcher, Tokenizer
from osai.core.errors import InvalidRequestError, WeightsError

PARTS = [
    "you ",
    "你好",
    "世界",
    "\N{GRINNING FACE}",
    "👩\u200d👩\u200d👧",
    "é",
    "e\u0301",
    " ",
    "\n",
    "안녕",
    "doesn't",
    "x",
]
TEXTS = st.one_of(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), st.text(max_size=30))
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def pieces(tokenizer: Tokenizer, prompt: Sequence[int], batches: Sequence[Sequence[int]]) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt)
    given_out = [detokenizer.add(batch) for batch in batches]
    return [*given_out, detokenizer.finish()]


def bytes_as_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """A byte a token: no tokenizer cuts finer."""
    letters = dict(zip(range(256), _byte_letters(), strict=True))
    return [tokenizer._tokenizer.convert_tokens_to_ids(letters[byte]) for byte in text.encode()]


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


@shared
@given(prompt=TEXTS, text=TEXTS, split=st.data())
def test_pieces_join_to_the_whole_text(tokenizer: Tokenizer, prompt: str, text: str, split: st.DataObject) -> None:
    """Whatever tokens the text is cut into, and however many come at once."""
    first = tokenizer.encode(prompt)
    tokens: list[int] = []
    at = 0
    while at < len(text):  # cut into runs that are encoded in the tokenizer's way or byte by byte
        length = split.draw(st.integers(1, len(text) - at))
        part = text[at : at + length]
        tokens += split.draw(st.sampled_from([list(tokenizer.encode(part)), bytes_as_tokens(tokenizer, part)]))
        at += length
    sizes = split.draw(st.lists(st.integers(1, 3), min_size=len(tokens), max_size=len(tokens)))
    batches, rest = [], tokens
    for size in sizes:
        batches.append(rest[:size])
        rest = rest[size:]
    out = pieces(tokenizer, first, batches)
    assert "".join(out) == text
    assert all(UNFINISHED not in piece for piece in out if UNFINISHED not in text)


@shared
@given(tokens=st.lists(st.integers(0, 419), max_size=30), prompt=st.text(max_size=5))
def test_any_tokens_at_all_give_what_decoding_them_at_once_gives(
    tokenizer: Tokenizer, tokens: list[int], prompt: str
) -> None:
    first = tokenizer.encode(prompt)
    whole = tokenizer.decode([*first, *tokens])[len(tokenizer.decode(first)) :]
    assert "".join(pieces(tokenizer, first, [[token] for token in tokens])) == whole


@shared
@given(prompt=TEXTS.filter(bool), text=TEXTS)
def test_byte_fallback_and_leading_spaces(fallback_tokenizer: Tokenizer, prompt: str, text: str) -> None:
    """Tokens of a text from which a prompt was cut off, as a model would go on with it."""
    tokens = fallback_tokenizer.encode(f"{prompt} {text}")
    first = len(fallback_tokenizer.encode(prompt))
    before = fallback_tokenizer.decode(tokens[:first])
    if before.endswith(UNFINISHED):
        return  # the prompt's own last character was merged with what follows it
    out = pieces(fallback_tokenizer, tokens[:first], [[token] for token in tokens[first:]])
    assert "".join(out) == fallback_tokenizer.decode(tokens)[len(before) :]
    assert all(UNFINISHED not in piece for piece in out if UNFINISHED not in text)


@pytest.mark.parametrize("character", ["é", "世", "\N{GRINNING FACE}"])
def test_a_character_comes_whole_with_its_last_byte(tokenizer: Tokenizer, character: str) -> None:
    tokens = bytes_as_tokens(tokenizer, character)
    detokenizer = Detokenizer(tokenizer, tokenizer.encode("a"))
    assert [detokenizer.add([token]) for token in tokens] == [*[""] * (len(tokens) - 1), character]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_prompt_that_ends_within_a_character_is_completed(tokenizer: Tokenizer, cut: int) -> None:
    """As when a client goes on elsewhere with the token ids that it has: the character used to be lost."""
    tokens = bytes_as_tokens(tokenizer, "\N{GRINNING FACE}!")
    detokenizer = Detokenizer(tokenizer, [*tokenizer.encode("so "), *tokens[:cut]])
    assert "".join(detokenizer.add([token]) for token in tokens[cut:]) == "\N{GRINNING FACE}!"


def test_what_can_never_be_completed_comes_at_the_end(tokenizer: Tokenizer) -> None:
    tokens = bytes_as_tokens(tokenizer, "a\N{GRINNING FACE}")[:3]
    detokenizer = Detokenizer(tokenizer, tokenizer.encode("x"))
    assert [detokenizer.add([token]) for token in tokens] == ["a", "", ""]
    assert detokenizer.finish() == UNFINISHED
    assert detokenizer.finish() == ""


def test_special_tokens_have_no_text_and_leave_no_trace(tokenizer: Tokenizer) -> None:
    """A row of them, as with ignore_eos, must not make each later token slower."""
    detokenizer = Detokenizer(tokenizer, tokenizer.encode("Go"))
    assert {detokenizer.add([EOS]) for _ in range(200)} == {""}
    assert len(detokenizer._ids) < 10
    assert detokenizer.add(tokenizer.encode(" on")) == " on"


def test_prompts_become_token_ids_uncut(tokenizer: Tokenizer) -> None:
    text = "The quick brown fox " * 20
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("") == ()
    assert tokenizer.token_text(EOS) == "</s>"
    assert tokenizer.token_text(bytes_as_tokens(tokenizer, "世")[0]) == UNFINISHED
    assert tokenizer.token_text(2**32 - 1) == ""  # no such token


def test_chats_go_through_the_template(tokenizer: Tokenizer) -> None:
    chat = [ChatMessage(role="user", content="hi"), ChatMessage(role="assistant", content="yes")]
    assert tokenizer.encode(chat) == tokenizer.encode("<|user|>hi<|assistant|>yes<|assistant|>")
    assert tokenizer.encode(chat)[0] == SPECIAL_TOKENS.index("<|user|>")
    with pytest.raises(InvalidRequestError, match="roles are user and assistant"):
        tokenizer.encode([ChatMessage(role="tool", content="hi")])


def test_a_chat_for_a_model_without_template_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer(train_byte_level(tmp_path, chat=False))
    with pytest.raises(InvalidRequestError, match="no chat template; send a plain prompt"):
        tokenizer.encode([ChatMessage(role="user", content="hi")])


def test_a_template_that_fails_refuses_the_chat(tmp_path: Path) -> None:
    """It is a program of the publisher's; these used to pass for failures of the coordinator."""
    chat = [ChatMessage(role="user", content="hi")]
    endless = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    for template in ("{{ 1 / 0 }}", "{{ messages[7].content.text }}", "{% if %}", endless):
        (train_byte_level(tmp_path) / "chat_template.jinja").write_text(template)
        tokenizer = Tokenizer(tmp_path)
        with pytest.raises(InvalidRequestError, match="does not fit the model's template"):
            tokenizer.encode(chat)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no tokenizer"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "null"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"version":"1.0","added_tokens":[{"id":1}],"model":{"type":"BPE","vocab":{},"merges":[]}}'),
        ("tokenizer_config.json", "null"),
        ("tokenizer_config.json", '{"eos_token": 7}'),
        ("special_tokens_map.json", "[]"),
    ],
)
def test_a_tokenizer_that_makes_no_sense_is_refused(tmp_path: Path, name: str, text: str) -> None:
    """Transformers raises what happens to go wrong: AttributeError, TypeError, bare Exception."""
    (train_byte_level(tmp_path) / name).write_text(text)
    with pytest.raises(WeightsError, match="no tokenizer that can be read"):
        Tokenizer(tmp_path)


def test_threads_share_a_tokenizer(tokenizer: Tokenizer) -> None:
    """Prompts are encoded in threads while the loop decodes."""
    text = "The quick brown fox " * 50
    expected = tokenizer.encode(text)
    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(tokenizer.encode, text) for _ in range(40)]
        decoded = {tokenizer.decode(expected) for _ in range(200)}
    assert decoded == {text}
    assert all(job.result() == expected for job in jobs)


def naive(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the stop string that is complete first (of those, the longest)."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return (text[: min(found)[1]], True) if found else (text, False)


@given(
    parts=st.lists(st.text("ab你\N{GRINNING FACE}", max_size=4), max_size=8),
    stops=st.lists(st.text("ab你\N{GRINNING FACE}", min_size=1, max_size=4), max_size=4),
)
def test_stop_strings_end_the_text_wherever_the_pieces_are_cut(parts: list[str], stops: list[str]) -> None:
    text, stopped = naive("".join(parts), stops)
    matcher = StopMatcher(stops)
    sent = ""
    for part in parts:
        sent += matcher.add(part)
        assert text.startswith(sent)  # so no part of the stop string that ends it went out
    sent += matcher.finish()
    assert (sent, matcher.stopped) == (text, stopped)
    assert not any(stop in sent for stop in stops)


def test_only_what_may_be_a_beginning_is_held_back() -> None:
    matcher = StopMatcher(["\n\n", "STOP"])
    assert [matcher.add(part) for part in ("one\n", "two S", "T", "AY", "STO")] == ["one", "\ntwo ", "", "STAY", ""]
    assert (matcher.finish(), matcher.stopped, matcher.finish()) == ("STO", False, "")


def test_nothing_comes_after_a_stop_string() -> None:
    matcher = StopMatcher(["end"])
    assert [matcher.add(part) for part in ("the e", "nd of", " it")] == ["the ", "", ""]
    assert (matcher.stopped, matcher.finish()) == (True, "")


def test_the_stop_string_that_is_complete_first_ends_the_text() -> None:
    """`b` is complete before `abc`: it used to depend on the pieces which of the two was found."""
    for parts in (["abc"], ["ab", "c"], ["a", "bc"], ["a", "b", "c"]):
        matcher = StopMatcher(["abc", "b"])
        assert "".join(matcher.add(part) for part in parts) == "a"
        assert matcher.stopped
