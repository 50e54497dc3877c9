"""Tools, several choices, responses and messages, through the vendors' own clients."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from gateway.fake_generations import (
    HANG,
    MODEL,
    FakeGenerations,
    Script,
    chunk,
    example_model,
    example_swarm,
    finished,
    started,
)
from gateway.front_door import serving
from osai.coordinator.api import ChatMessage, ToolCall
from osai.coordinator.tool_calls.style import ToolStyle
from osai.core import errors

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
FLAT: Any = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}]
ANTHROPIC_TOOLS: Any = [{"name": "weather", "input_schema": SCHEMA}]
TURNS: Any = [{"role": "user", "content": "How is it in Rome?"}]
ANSWERED: Any = [
    *TURNS,
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
]  # fmt: skip
AS_TURNS = (
    ChatMessage(role="user", content="How is it in Rome?"),
    ChatMessage(
        role="assistant", content="", tool_calls=(ToolCall(call_id="c1", name="weather", arguments='{"city": "Rome"}'),)
    ),
    ChatMessage(role="tool", content="sunny", tool_call_id="c1", name="weather"),
)


def saying(*texts: str, reason: str = "stop") -> Script:
    return lambda request: [
        started(request.sampling.seed), *(chunk(i, text) for i, text in enumerate(texts)), finished(reason, len(texts))
    ]  # fmt: skip


@asynccontextmanager
async def clients(
    fake: FakeGenerations, style: ToolStyle | None = None
) -> AsyncIterator[tuple[AsyncOpenAI, AsyncAnthropic]]:
    """Both vendors' clients at a front door whose model has the style."""
    fake.view = example_swarm(models=(example_model(tools=style),))
    async with (
        serving(fake) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as first,
        AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as second,
    ):
        yield first, second


HERMES = ToolStyle(format="hermes")


async def test_a_chat_s_calls_plain_and_streamed() -> None:
    fake = FakeGenerations(script=saying("I look. ", CALL[:9], CALL[9:]))
    async with clients(fake, HERMES) as (client, _):
        plain = await client.chat.completions.create(model=MODEL, messages=TURNS, tools=TOOLS)
        stream = await client.chat.completions.create(model=MODEL, messages=TURNS, tools=TOOLS, stream=True)
        parts = [part async for part in stream]
    (choice,) = plain.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rome"}')
    deltas = [part.choices[0].delta for part in parts]
    assert "".join(delta.content or "" for delta in deltas) == "I look."
    (streamed,) = [one for delta in deltas for one in delta.tool_calls or []]
    assert streamed.function is not None
    assert (streamed.index, streamed.function.arguments) == (0, '{"city": "Rome"}')
    assert parts[-1].choices[0].finish_reason == "tool_calls"
    assert fake.requests[0].grammar is None  # nothing is required
    assert [tool.name for tool in fake.requests[0].tools] == ["weather"]


async def test_an_answered_call_goes_back_through_every_api() -> None:
    fake = FakeGenerations()
    use = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "sunny"}]}
    blocks: Any = [*TURNS, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    called = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'}
    items: Any = [*TURNS, called, {"type": "function_call_output", "call_id": "c1", "output": "sunny"}]
    async with clients(fake) as (client, other):
        await client.chat.completions.create(model=MODEL, messages=ANSWERED)
        await client.responses.create(model=MODEL, input=items)
        await other.messages.create(model=MODEL, max_tokens=9, messages=blocks)
    assert [request.prompt for request in fake.requests] == [AS_TURNS] * 3


async def test_a_template_without_tools_is_a_clear_400() -> None:
    fake = FakeGenerations()
    async with clients(fake) as (client, other):
        with pytest.raises(openai.BadRequestError, match="chat template knows no tools") as caught:
            await client.chat.completions.create(model=MODEL, messages=TURNS, tools=TOOLS)
        with pytest.raises(anthropic.BadRequestError, match="chat template knows no tools"):
            await other.messages.create(model=MODEL, max_tokens=9, messages=TURNS, tools=ANTHROPIC_TOOLS)
        await client.chat.completions.create(model=MODEL, messages=TURNS, tools=TOOLS, tool_choice="none")
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported_parameter")
    assert [request.tools for request in fake.requests] == [()]


async def test_what_cannot_be_enforced_in_the_model_s_format_is_a_400() -> None:
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}}}]  # fmt: skip
    async with clients(FakeGenerations(), ToolStyle(format="pythonic")) as (client, _):
        with pytest.raises(openai.BadRequestError, match="'pattern'"):
            await client.chat.completions.create(model=MODEL, messages=TURNS, tools=tools, tool_choice="required")
        with pytest.raises(openai.BadRequestError, match="no tool can be called"):
            await client.chat.completions.create(
                model=MODEL, messages=TURNS, tools=TOOLS, extra_body={"guided_regex": "a+"}
            )


async def test_several_choices_are_as_many_generations_with_seeds_in_a_row() -> None:
    fake = FakeGenerations()
    async with clients(fake) as (client, _):
        plain = await client.chat.completions.create(model=MODEL, messages=TURNS, n=3, seed=5)
        stream = await client.completions.create(
            model=MODEL, prompt="x", n=2, stream=True, stream_options={"include_usage": True}
        )
        parts = [part async for part in stream]
    assert [choice.index for choice in plain.choices] == [0, 1, 2]
    assert plain.usage is not None
    assert (plain.usage.prompt_tokens, plain.usage.completion_tokens) == (4, 9)
    assert [request.sampling.seed for request in fake.requests[:3]] == [5, 6, 7]
    texts = ["".join(p.choices[0].text for p in parts if p.choices and p.choices[0].index == i) for i in range(2)]
    assert texts == ["Hello world"] * 2
    assert parts[-1].usage is not None
    assert parts[-1].usage.completion_tokens == 6


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_error_of_several_choices_frees_them_all(*, stream: bool) -> None:
    fake = FakeGenerations(
        script=lambda request: [errors.ResourceExhaustedError("full")] if request.sampling.seed == 6 else [HANG]
    )
    async with clients(fake) as (client, _):
        with pytest.raises(openai.RateLimitError, match="full"):
            await client.completions.create(model=MODEL, prompt="x", n=3, seed=5, stream=stream)
    assert (fake.num_cancelled, fake.num_ended) == (2, 1)


async def test_a_response_streams_its_items() -> None:
    fake = FakeGenerations(script=saying("I look. ", CALL))
    async with clients(fake, HERMES) as (client, _):
        async with client.responses.stream(model=MODEL, input="Rome?", tools=FLAT, instructions="Be brief.") as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        plain = await client.responses.create(model=MODEL, input="Rome?", tools=FLAT, instructions="Be brief.")
    for answer in (final, plain):
        assert [item.type for item in answer.output] == ["message", "function_call"]
        assert (answer.output_text, answer.status, answer.store if hasattr(answer, "store") else False) == (
            "I look.", "completed", False,
        )  # fmt: skip
        assert answer.usage is not None
        assert answer.usage.total_tokens == 6
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.function_call_arguments.done" in kinds
    assert fake.requests[0].prompt == (
        ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Rome?")
    )  # fmt: skip


async def test_a_response_that_is_cut_says_so_and_one_that_breaks_ends_visibly() -> None:
    fake = FakeGenerations(script=saying("Hel", "lo", reason="length"))
    async with clients(fake) as (client, _):
        cut = await client.responses.create(model=MODEL, input="x", max_output_tokens=2)
        fake.script = lambda _request: [started(), chunk(0, "Hel"), errors.UnavailableError("lost")]
        stream = await client.responses.create(model=MODEL, input="x", stream=True)
        last = [event async for event in stream][-1]
    assert last.type == "error"
    assert (last.message, last.code) == ("lost", "unavailable")
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


async def test_a_message_plain_and_streamed() -> None:
    fake = FakeGenerations(script=saying("I look. ", CALL))
    async with clients(fake, HERMES) as (_, client):
        plain = await client.messages.create(
            model=MODEL, max_tokens=9, system="Be brief.", messages=TURNS, tools=ANTHROPIC_TOOLS,
            tool_choice={"type": "any"},
        )  # fmt: skip
        async with client.messages.stream(model=MODEL, max_tokens=9, messages=TURNS, tools=ANTHROPIC_TOOLS) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_message()
    for message in (plain, final):
        assert [block.type for block in message.content] == ["text", "tool_use"]
        assert message.stop_reason == "tool_use"
        assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (1, 3)  # of four, three cached
        assert message.usage.output_tokens == 2
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert fake.requests[0].grammar is not None
    assert fake.requests[1].grammar is None


async def test_errors_of_messages_are_in_anthropic_s_shape() -> None:
    fake = FakeGenerations(script=lambda _request: [errors.NotCoveredError("no layers 2 to 4")])
    async with clients(fake) as (_, client):
        with pytest.raises(anthropic.InternalServerError, match="no layers 2 to 4") as caught:
            await client.messages.create(model=MODEL, max_tokens=9, messages=TURNS)
        with pytest.raises(anthropic.BadRequestError, match="thinking: not supported"):
            await client.messages.create(
                model=MODEL, max_tokens=9, messages=TURNS, thinking={"type": "enabled", "budget_tokens": 1024}
            )
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.count_tokens(model=MODEL, messages=TURNS)
    body: Any = caught.value.body
    assert body["error"] == {"type": "overloaded_error", "message": "no layers 2 to 4"}
    assert body["request_id"] == caught.value.response.headers["x-request-id"]
    assert caught.value.response.headers["retry-after"] == "5"


async def test_embeddings_in_both_encodings_and_their_errors() -> None:
    fake = FakeGenerations()
    async with clients(fake) as (client, _):
        found = await client.embeddings.create(model=MODEL, input=["a", "bb"])
        plain = await client.embeddings.create(model=MODEL, input=[5, 6, 7], encoding_format="float")
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            await client.embeddings.create(model=MODEL, input="a", dimensions=2)
        fake.embedding = (errors.UnavailableError("lost"),)
        with pytest.raises(openai.InternalServerError, match="lost"):
            await client.embeddings.create(model=MODEL, input=["a", "b"])
    assert [one.embedding[:2] for one in found.data] == [pytest.approx([0.6, -0.8])] * 2
    assert (found.usage.prompt_tokens, (found.model_extra or {})["osai"]["pooling"]) == (3, "mean")
    assert plain.data[0].embedding == [0.6, -0.8, 3 / 2**20]
    assert fake.embedded[2].prompt == (5, 6, 7)
