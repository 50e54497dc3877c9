"""Grammars at the tail: what may come next, wherever the session began and whatever was cut."""

import json
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from random import Random

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from engine.harness import PROMPT, WHOLE, Harness, load, running
from osai.core.errors import DeadlineExceededError, InternalError, InvalidRequestError, WeightsError
from osai.core.grammar import Grammar
from osai.core.sampling import SamplingParams
from osai.core.vocabulary import Vocabulary
from osai.node.engine import constraint as constraint_module
from osai.node.engine.api import Sampled, SessionSpec
from osai.node.engine.constraint import Constraint

EOS = 2
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}, "b": {"enum": ["x", "yes", None]}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
JSON = Grammar(kind="json_schema", text=json.dumps(SCHEMA))
LETTERS = Grammar(kind="regex", text="[ab]+c?")


class Workers:
    """An executor, the tokens of the test models, and their tokenizer."""

    def __init__(self, path: Path, executor: Executor) -> None:
        self.vocabulary = Vocabulary((path / "tokenizer.json").read_bytes(), [EOS])
        self.tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self.executor = executor

    def token_id(self, text: str) -> int:
        return int(self.tokenizer.token_to_id(text) or 0)

    def constraint(self, grammar: Grammar, generated: list[int] | None = None, *, keeps_on: bool = False) -> Constraint:
        unwanted = [EOS] if keeps_on else []
        matcher = self.vocabulary.matcher(grammar)
        return Constraint(matcher, grammar.kind, self.executor, unwanted=unwanted, generated=generated or [])


@pytest.fixture(scope="module")
def workers(llama: Path) -> Iterator[Workers]:
    with ThreadPoolExecutor(2) as executor:
        yield Workers(llama, executor)


def ids(allowed: torch.Tensor) -> list[int]:
    return [int(i) for i in allowed.nonzero().squeeze(1)]


def drawn_at_random(constraint: Constraint, seed: int, first: int = 0, most: int = 60) -> list[int]:
    dice = Random(seed)
    tokens: list[int] = []
    while not constraint.has_ended and len(tokens) < most:
        tokens.append(dice.choice(ids(constraint.allowed(first + len(tokens)))))
        constraint.note(first + len(tokens) - 1, tokens[-1])
    return tokens


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), at=st.integers(0, 20))
def test_random_tokens_make_a_sentence_and_one_begun_elsewhere_goes_on_alike(
    workers: Workers, seed: int, at: int
) -> None:
    tokens = drawn_at_random(workers.constraint(JSON), seed)
    jsonschema.validate(json.loads(workers.tokenizer.decode(tokens)), SCHEMA)
    at = min(at, len(tokens) - 1)
    whole, resumed = workers.constraint(JSON), workers.constraint(JSON, tokens[:at])
    for index, token in enumerate(tokens):
        if index >= at:
            assert torch.equal(whole.allowed(index), resumed.allowed(index))
            resumed.note(index, token)
        whole.note(index, token)
    assert resumed.has_ended
    whole.prepare(at)  # it is cut back to there
    assert not whole.has_ended
    assert tokens[at] in ids(whole.allowed(at))


def test_the_end_of_the_text_may_come_where_the_grammar_may_end_and_nowhere_else(workers: Workers) -> None:
    a, c = (workers.token_id(letter) for letter in "ac")
    constraint = workers.constraint(LETTERS)
    assert EOS not in ids(constraint.allowed(0))
    constraint.note(0, a)
    assert {a, c, EOS} <= set(ids(constraint.allowed(1)))
    constraint.note(1, c)
    assert constraint.has_ended, "nothing can follow, so that no end of the text need be drawn"
    going_on = workers.constraint(LETTERS, [a], keeps_on=True)
    assert EOS not in ids(going_on.allowed(1)), "a session that is to ignore it never draws it"


def test_tokens_that_do_not_fit_are_refused(workers: Workers) -> None:
    a, x = (workers.token_id(letter) for letter in "ax")
    with pytest.raises(InvalidRequestError, match="token 1 of those generated so far does not fit the regex"):
        workers.constraint(LETTERS, [a, x])
    constraint = workers.constraint(LETTERS, [a])
    with pytest.raises(InvalidRequestError, match="token 3 needs the 3 before it for its regex, and 1 are known"):
        constraint.allowed(3)
    with pytest.raises(InternalError, match="the regex can't be used"):
        constraint.note(1, x)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar(kind="regex", text="(a"), "unclosed group"),
        (Grammar(kind="lark", text="start: nowhere"), 'unknown name: "nowhere"'),
        (Grammar(kind="json_schema", text='{"type": "strang"}'), "strang"),
        (Grammar(kind="json_schema", text='{"not": {"type": "string"}}'), "Unimplemented keys"),
        (Grammar(kind="json_schema", text="{"), "is no JSON"),
        (Grammar(kind="json_schema", text='5 }], "max_tokens": 1, "x": [{"y": 5'), "is no JSON"),
        (Grammar(kind="json_schema", text="[" * 60_000), "is no JSON"),
        (Grammar(kind="lark", text="start: " + " | ".join(f'"{i:04}" "x" "y" "z"' for i in range(3000))), ""),
    ],
)
def test_a_grammar_that_can_not_be_used_is_refused_in_the_librarys_words(
    workers: Workers, grammar: Grammar, reason: str
) -> None:
    if not reason:
        workers.constraint(grammar)  # long, and yet one that can be used
        return
    with pytest.raises(InvalidRequestError) as caught:
        workers.constraint(grammar)
    assert reason in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("data", [b"", b"/etc/passwd", b'"x"', b"{}", b"\xff"])
def test_a_tokenizer_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(WeightsError, match="no grammar can be used with this tokenizer"):
        Vocabulary(data, [EOS])


def test_a_model_without_an_end_of_text_ends_with_its_grammar(llama: Path, workers: Workers) -> None:
    vocabulary = Vocabulary((llama / "tokenizer.json").read_bytes(), [])
    tokens = drawn_at_random(Constraint(vocabulary.matcher(JSON), "json_schema", workers.executor), seed=1)
    jsonschema.validate(json.loads(workers.tokenizer.decode(tokens)), SCHEMA)


def test_a_worker_that_hangs_ends_the_session_and_not_the_engine(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hung(Executor):
        def submit(self, *_: object, **__: object) -> "Future[object]":  # type: ignore[override]
            return Future()

    monkeypatch.setattr(constraint_module, "MASK_S", 0.01)
    constraint = Constraint(workers.vocabulary.matcher(LETTERS), "regex", Hung())
    with pytest.raises(DeadlineExceededError, match="no mask of the regex"):
        constraint.allowed(0)


async def generated(
    harness: Harness, workers: Workers, session: int, params: SamplingParams, known: list[int]
) -> list[Sampled]:
    tokens = PROMPT + known
    spec = SessionSpec(
        session=session,
        span="span",
        num_prompt_tokens=len(PROMPT),
        max_total_tokens=60,
        sampling=params,
        stop_token_ids=frozenset({EOS}),
        prompt_token_ids=tuple(tokens),
        num_known_tokens=len(tokens),
        constraint=workers.constraint(JSON, known),
    )
    await harness.engine.open(spec)
    return await harness.generate(session, tokens)


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.5, seed=3, presence_penalty=0.5)])
async def test_the_engine_keeps_to_a_grammar_and_another_tail_goes_on_with_the_same_tokens(
    llama: Path, workers: Workers, params: SamplingParams
) -> None:
    async with running(load(llama, WHOLE)) as harness:
        whole = await generated(harness, workers, 1, params, [])
        tokens = [sampled.token_id for sampled in whole]
        jsonschema.validate(json.loads(workers.tokenizer.decode(tokens)), SCHEMA)
        assert whole[-1].finish == "stop"
        rest = await generated(harness, workers, 2, params, tokens[:5])
        assert [sampled.token_id for sampled in rest] == tokens[5:]


async def test_a_session_whose_grammar_fails_ends_alone(llama: Path, workers: Workers) -> None:
    a = workers.token_id("a")
    async with running(load(llama, WHOLE)) as harness:
        await harness.open(1)
        spec = SessionSpec(
            session=2,
            span="span",
            num_prompt_tokens=len(PROMPT),
            max_total_tokens=60,
            sampling=SamplingParams(),
            constraint=workers.constraint(LETTERS, [a]),  # and its tail is to draw token 3 next
            num_known_tokens=len(PROMPT) + 3,
        )
        await harness.engine.open(spec)
        harness.submit(1, 0, PROMPT)
        with pytest.raises(InvalidRequestError, match="needs the 3 before it"):
            await harness.generate(2, [*PROMPT, a, a, a])
        assert harness.outputs[0].sampled or (await harness.output(1)).sampled


async def test_a_bias_outside_the_vocabulary_is_refused(llama: Path) -> None:
    async with running(load(llama, WHOLE)) as harness:
        with pytest.raises(InvalidRequestError, match="logit_bias names token 9999, which is not in the model's"):
            await harness.open(1, sampling=SamplingParams(logit_bias=((9999, 1.0),)))
