"""Requests against their model: what can't be run is refused before any node hears of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.coordinator.api import GenerationRequest
from osai.coordinator.plan import MAX_STOP_CHARS, MAX_STOP_STRINGS, plan_generation
from osai.core.errors import ContextExceededError, InvalidRequestError, OsaiError
from osai.core.model import ModelFacts
from osai.core.prefix import BLOCK_TOKENS, block_hashes
from osai.core.sampling import SamplingParams

FACTS = ModelFacts(
    architecture="LlamaForCausalLM",
    num_layers=6,
    hidden_size=4,
    vocab_size=100,
    max_context=16,
    eos_token_ids=(2, 3),
    max_kv_numbers=8,
    dtype="float32",
)
REQUEST = GenerationRequest(model_id="m", prompt="x")
PROMPT = tuple(range(10))


@pytest.mark.parametrize(
    ("changes", "prompt", "error_type", "words"),
    [
        ({}, (), InvalidRequestError, "prompt is empty"),
        ({}, (5, 100), InvalidRequestError, "token id 100 .* vocabulary of 100"),
        ({}, (-1,), InvalidRequestError, "token id -1"),
        ({"stop_token_ids": (7, 4000)}, PROMPT, InvalidRequestError, "token id 4000"),
        ({"max_tokens": 0}, PROMPT, InvalidRequestError, "max_tokens is 0; it must be at least 1"),
        ({"max_tokens": -5}, PROMPT, InvalidRequestError, "max_tokens is -5"),
        ({"stop": ("",)}, PROMPT, InvalidRequestError, "stop strings of 1 to 256"),
        ({"stop": ("x" * (MAX_STOP_CHARS + 1),)}, PROMPT, InvalidRequestError, "stop strings"),
        ({"stop": ("x",) * (MAX_STOP_STRINGS + 1)}, PROMPT, InvalidRequestError, "at most 16 stop strings"),
        ({}, (1,) * 16, ContextExceededError, "prompt has 16 tokens; the model's context holds 16"),
        ({}, (1,) * 99, ContextExceededError, "prompt has 99 tokens"),
        ({"max_tokens": 7}, PROMPT, ContextExceededError, "ask for at most 6"),
        ({"max_tokens": 2**40}, PROMPT, ContextExceededError, "ask for at most 6"),
    ],
)
def test_refusals(changes: dict[str, object], prompt: tuple[int, ...], error_type: type[OsaiError], words: str) -> None:
    with pytest.raises(error_type, match=words) as caught:
        plan_generation(replace(REQUEST, **changes), prompt, FACTS)  # type: ignore[arg-type]
    assert type(caught.value) is error_type


def test_the_context_is_filled_to_its_last_token_and_no_further() -> None:
    assert plan_generation(replace(REQUEST, max_tokens=6), PROMPT, FACTS).max_total_tokens == 16
    assert plan_generation(replace(REQUEST, max_tokens=1), (1,) * 15, FACTS).max_total_tokens == 16
    assert plan_generation(REQUEST, PROMPT, FACTS).max_total_tokens == 16  # no bound given: as many as fit
    assert plan_generation(replace(REQUEST, max_tokens=2), PROMPT, FACTS).max_total_tokens == 12


def test_the_models_own_ends_are_added_unless_they_are_ignored() -> None:
    wanted = replace(REQUEST, stop_token_ids=(9, 3, 9))
    assert plan_generation(wanted, PROMPT, FACTS).stop_token_ids == (9, 3, 2)
    assert plan_generation(replace(wanted, ignore_eos=True), PROMPT, FACTS).stop_token_ids == (9, 3)


def test_sampling_and_stop_strings_go_through_as_they_are() -> None:
    sampling = SamplingParams(temperature=0.5, seed=7)
    plan = plan_generation(replace(REQUEST, sampling=sampling, stop=("a", "b")), PROMPT, FACTS)
    assert (plan.sampling, plan.stop, plan.prompt) == (sampling, ("a", "b"), PROMPT)


@given(
    prompt=st.lists(st.integers(-2, 101), max_size=20).map(tuple),
    max_tokens=st.one_of(st.none(), st.integers(-3, 20)),
    stop_token_ids=st.lists(st.integers(-1, 101), max_size=3).map(tuple),
)
def test_a_plan_is_within_every_bound(
    prompt: tuple[int, ...], max_tokens: int | None, stop_token_ids: tuple[int, ...]
) -> None:
    request = replace(REQUEST, max_tokens=max_tokens, stop_token_ids=stop_token_ids)
    try:
        plan = plan_generation(request, prompt, FACTS)
    except InvalidRequestError:
        return
    assert len(plan.prompt) < plan.max_total_tokens <= FACTS.max_context
    assert all(0 <= token < FACTS.vocab_size for token in (*plan.prompt, *plan.stop_token_ids))


def test_a_prompts_blocks_are_named_within_the_context() -> None:
    facts = replace(FACTS, max_context=40)
    prompt = tuple(range(35))
    plan = plan_generation(REQUEST, prompt, facts)
    assert plan.block_hashes == block_hashes(prompt)
    assert len(plan.block_hashes) == 2 <= facts.max_context // BLOCK_TOKENS
    assert plan_generation(REQUEST, prompt[:32], facts).block_hashes == plan.block_hashes[:1]  # a row is left to run
