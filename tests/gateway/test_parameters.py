"""What the request models accept, refuse, and how they say so."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from osai.coordinator.gateway.bodies import ChatBody, CompletionBody
from osai.coordinator.gateway.errors import ParameterError
from osai.coordinator.gateway.schema import GenerationBody
from osai.coordinator.gateway.validation import parameter_error
from osai.core.errors import OsaiError

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def refusal(kind: type[GenerationBody], body: object) -> ParameterError:
    """The error that a body earns."""
    with pytest.raises((ValidationError, ParameterError)) as caught:
        kind.model_validate(body).asked(drawn_seed=0)
    if isinstance(caught.value, ParameterError):
        return caught.value
    assert isinstance(caught.value, ValidationError)
    return parameter_error(caught.value.errors()[0])


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 17}, "n", "invalid_value"),
        ({"n": 1.0}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"logit_bias": {"five": 1}}, "logit_bias.five", "invalid_value"),
        ({"logit_bias": {"-5": 1}}, "logit_bias.-5", "invalid_value"),
        ({"logit_bias": {"9" * 11: 1}}, "logit_bias.99999999999", "invalid_value"),
        ({"logit_bias": {"5": "much"}}, "logit_bias.5", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
        ({"logit_bias": {"5": 10**400}}, "logit_bias.5", "invalid_value"),
        ({"logit_bias": {"5": float("nan")}}, "logit_bias.5", "invalid_value"),
        ({"logit_bias": {"5": 1, "05": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "invalid_value"),
        ({"logit_bias": [5]}, "logit_bias", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "invalid_value"),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        ({"tools": [TOOL] * 129}, "tools", "invalid_value"),
        ({"tools": [{**TOOL, "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "unsupported_parameter"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
            "invalid_value",
        ),
        (
            {"tool_choice": {"type": "function", "function": {}}},
            "tool_choice.function.name",
            "missing_required_parameter",
        ),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_value"),
        (
            {"response_format": {"type": "text", "json_schema": {"name": "x"}}},
            "response_format.json_schema",
            "invalid_value",
        ),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "response_format", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": "b" * 70_000}}}},
            "response_format",
            "invalid_value",
        ),
        ({"guided_json": "{"}, "guided_json", "invalid_value"),
        ({"guided_json": 5}, "guided_json", "invalid_value"),
        ({"guided_regex": ""}, "guided_regex", "invalid_value"),
        ({"guided_choice": []}, "guided_choice", "invalid_value"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"best_of": 2}, "best_of", "unknown_parameter"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"temperature": "1.0"}, "temperature", "invalid_value"),
        ({"temperature": float("nan")}, "temperature", "invalid_value"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_p": 1.1}, "top_p", "invalid_value"),
        ({"top_k": -1}, "top_k", "invalid_value"),
        ({"presence_penalty": 3}, "presence_penalty", "invalid_value"),
        ({"seed": -1}, "seed", "invalid_value"),
        ({"seed": 2**64}, "seed", "invalid_value"),
        ({"seed": 10**400}, "seed", "invalid_value"),
        ({"temperature": 10**400}, "temperature", "invalid_value"),
        ({"temperature": 1e400}, "temperature", "invalid_value"),
        ({"max_tokens": 2**20 + 1}, "max_tokens", "invalid_value"),
        ({"stop_token_ids": [1] * (2**20 + 1)}, "stop_token_ids", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": -5}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_completion_tokens", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stop": [1]}, "stop", "invalid_value"),
        ({"stop_token_ids": [1, "2"]}, "stop_token_ids[1]", "invalid_value"),
        ({"stop_token_ids": 3}, "stop_token_ids", "invalid_value"),
        ({"logprobs": 5}, "logprobs", "invalid_value"),
        ({"top_logprobs": 5}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "unknown_parameter"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
            "messages[0].tool_calls",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{**CALL, "type": "custom"}]}]},
            "messages[0].tool_calls[0].type",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "function_call": {}}]},
            "messages[0].function_call",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "unsupported_parameter",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]", "invalid_value"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "invalid_value"),
    ],
)
def test_a_chat_that_is_refused(change: dict[str, Any], param: str, code: str) -> None:
    error = refusal(ChatBody, CHAT | change)
    assert (error.param, error.detail) == (param, code)
    assert param in error.message


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"prompt": ["a", "b"]}, "prompt", "unsupported_parameter"),
        ({"prompt": [[1], [2]]}, "prompt", "unsupported_parameter"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt", "invalid_value"),
        ({"prompt": 5}, "prompt", "invalid_value"),
        ({"prompt": [5, -1]}, "prompt[1]", "invalid_value"),
        ({"prompt": [5, True]}, "prompt[1]", "invalid_value"),
        ({"prompt": [5, 2**31]}, "prompt[1]", "invalid_value"),
        ({"prompt": "a\ud800"}, "prompt", "invalid_value"),
        ({"stop": ["\ud800"]}, "stop", "invalid_value"),
        ({"model": "\ud800"}, "model", "invalid_value"),
        ({"prompt": ["\ud800"]}, "prompt", "invalid_value"),
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"best_of": 3}, "best_of", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "invalid_value"),
        ({"logprobs": 21}, "logprobs", "invalid_value"),
        ({"logprobs": -1}, "logprobs", "invalid_value"),
        ({"messages": []}, "messages", "unknown_parameter"),
    ],
)
def test_a_completion_that_is_refused(change: dict[str, Any], param: str, code: str) -> None:
    error = refusal(CompletionBody, COMPLETION | change)
    assert (error.param, error.detail) == (param, code)
    assert param in error.message


def test_parameters_that_ask_for_nothing_are_accepted() -> None:
    nothing = {
        "n": 1, "logit_bias": {}, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"},
        "store": False, "service_tier": "auto", "modalities": ["text"], "temperature": None, "stop": None,
        "parallel_tool_calls": True, "stream_options": None, "reasoning_effort": None, "audio": None,
        "user": "someone", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k",
    }  # fmt: skip
    asked = ChatBody.model_validate(CHAT | nothing).asked(drawn_seed=0)
    assert asked == ChatBody.model_validate(CHAT).asked(drawn_seed=0)
    none = {"n": 1, "best_of": 1, "echo": False, "suffix": "", "logprobs": None}
    assert CompletionBody.model_validate(COMPLETION | none) == CompletionBody.model_validate(COMPLETION)


def test_the_advice_names_what_would_be_accepted() -> None:
    assert refusal(ChatBody, CHAT | {"store": True}).message == "store: not supported; leave it out or send False"
    assert refusal(ChatBody, CHAT | {"verbosity": "low"}).message == "verbosity: not supported; leave it out"


def test_a_refused_list_is_not_answered_item_by_item() -> None:
    body = {"model": "m", "messages": [{"role": 1, "content": 1}] * 1000}
    with pytest.raises(ValidationError) as caught:
        ChatBody.model_validate(body)
    assert caught.value.error_count() <= 2  # of the first message, one for each of its fields


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*ChatBody.known(), *CompletionBody.known(), "type", "name", "x"]), inner)
), max_leaves=12))  # fmt: skip
def test_any_json_is_accepted_or_refused_with_our_own_error(body: object) -> None:
    for kind in (ChatBody, CompletionBody):
        try:
            request = kind.model_validate(body).asked(drawn_seed=0)
        except ValidationError as e:
            messages = [parameter_error(detail).message for detail in e.errors()]
        except OsaiError as e:
            messages = [e.message]
        else:
            messages = [repr(request)]
        assert all(messages)
