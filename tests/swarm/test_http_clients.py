"""The clients that people have, against a running swarm: OpenAI's, Anthropic's, and LangChain's.

The weights are random: what is well-formed here is so because the tail holds the model to a grammar.
"""

import json
import shutil
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from families.fixtures import Checkpoints
from swarm.programs import Hosted, Publisher, TestSwarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

MODEL = "test/tooled"
TEMPLATE = (
    "{% if tools %}Call as <tool_call>: {% for tool in tools %}{{ tool['function']['name'] }} {% endfor %}{% endif %}"
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% for call in m.get('tool_calls') or [] %}{{ call['function']['arguments']['city'] }}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CITY: dict[str, Any] = {
    "type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
    "additionalProperties": False,
}  # fmt: skip
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": CITY}}]
TURNS: Any = [{"role": "user", "content": "hi"}]


class Trip(BaseModel):
    """What structured output is parsed into."""

    city: Literal["Rome", "Oslo"]
    by_train: bool


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints) -> Iterator[TestSwarm]:
    folder = tmp_path_factory.mktemp("tooled") / "llama"
    shutil.copytree(checkpoints("llama"), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    publisher = Publisher(tmp_path_factory.mktemp("publisher"))
    signed = publisher.sign(MODEL, folder)
    with TestSwarm(tmp_path_factory.mktemp("swarm"), publisher.public_key) as running:
        running.serve([signed])
        running.add_nodes([[Hosted(model=signed, span=span)] for span in ("0:3", "3:6")])
        yield running


@pytest.fixture
def client(swarm: TestSwarm) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{swarm.http}/v1", api_key="none", timeout=60, max_retries=0) as client:
        yield client


@pytest.fixture
def messages(swarm: TestSwarm) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=swarm.http, api_key="none", timeout=60, max_retries=0) as client:
        yield client


@pytest.fixture
def langchain(swarm: TestSwarm) -> ChatOpenAI:
    return ChatOpenAI(
        model=MODEL, base_url=f"{swarm.http}/v1", api_key=SecretStr("none"), timeout=60, max_retries=0, seed=1,
        max_completion_tokens=200,
    )  # fmt: skip


def test_openai_chat_plain_and_streamed_with_usage_and_logprobs(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(
        model=MODEL, messages=TURNS, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2
    )
    stream = client.chat.completions.create(
        model=MODEL, messages=TURNS, max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    parts = list(stream)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == plain.choices[0].message.content
    assert parts[-1].usage is not None
    assert plain.usage is not None
    assert parts[-1].usage.total_tokens == plain.usage.total_tokens
    assert plain.choices[0].logprobs is not None
    assert [len(token.top_logprobs) for token in plain.choices[0].logprobs.content or []] == [2] * 8


def test_openai_several_choices_are_each_what_their_seed_gives(client: openai.OpenAI) -> None:
    several = client.chat.completions.create(model=MODEL, messages=TURNS, max_tokens=8, n=3, seed=5)
    second = client.chat.completions.create(model=MODEL, messages=TURNS, max_tokens=8, seed=6)
    assert len({choice.message.content for choice in several.choices}) == 3
    assert several.choices[1].message.content == second.choices[0].message.content


def test_openai_logit_bias_and_guided_choice_rule_the_answer(client: openai.OpenAI) -> None:
    biased = client.completions.create(
        model=MODEL, prompt="x", max_tokens=4, temperature=0, logit_bias={"70": 100}, logprobs=0,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    chosen = client.completions.create(
        model=MODEL, prompt="x", max_tokens=8, seed=1, extra_body={"guided_choice": ["yes", "no"]}
    )
    assert biased.choices[0].logprobs is not None
    assert len(set(biased.choices[0].logprobs.tokens or [])) == 1
    assert chosen.choices[0].text in {"yes", "no"}
    assert chosen.choices[0].finish_reason == "stop"


def test_openai_a_required_tool_is_called_and_its_result_goes_back(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        model=MODEL, messages=TURNS, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=1
    )
    (call,) = first.choices[0].message.tool_calls or []
    assert first.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in {"Rome", "Oslo"}
    turns = [*TURNS, first.choices[0].message.model_dump(exclude_none=True),
             {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]  # fmt: skip
    second = client.chat.completions.create(model=MODEL, messages=turns, tools=TOOLS, max_tokens=4)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_openai_structured_output_is_parsed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=TURNS, response_format=Trip, seed=1, max_tokens=200)
    assert isinstance(answer.choices[0].message.parsed, Trip)
    assert answer.choices[0].finish_reason == "stop"


def test_openai_responses_and_embeddings(client: openai.OpenAI) -> None:
    plain = client.responses.create(model=MODEL, input="hi", max_output_tokens=6, temperature=0)
    with client.responses.stream(model=MODEL, input="hi", max_output_tokens=6, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    found = client.embeddings.create(model=MODEL, input=["the quick brown fox", "a peer", "the quick brown fox"])
    vectors = [one.embedding for one in found.data]
    assert "".join(deltas) == plain.output_text
    assert plain.usage is not None
    assert plain.usage.output_tokens <= 6
    assert vectors[0] == pytest.approx(vectors[2])
    assert vectors[0] != pytest.approx(vectors[1])
    assert sum(x * x for x in vectors[0]) == pytest.approx(1.0, abs=1e-4)


def test_openai_errors_are_its_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nope", messages=TURNS)
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model=MODEL, prompt="a b " * 2000)
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        client.completions.create(model=MODEL, prompt="x", logit_bias={"100000": 1})
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="x", extra_body={"guided_grammar": "start: ("})
    assert caught.value.type == "invalid_request_error"


def test_anthropic_messages_plain_and_streamed(messages: anthropic.Anthropic) -> None:
    extra = {"temperature": 0}
    plain = messages.messages.create(model=MODEL, max_tokens=8, messages=TURNS, system="Be brief.", extra_body=extra)
    with messages.messages.stream(
        model=MODEL, max_tokens=8, messages=TURNS, system="Be brief.", extra_body=extra
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert [block.text for block in plain.content if block.type == "text"] == [text]
    assert final.usage.output_tokens == plain.usage.output_tokens
    assert plain.stop_reason == final.stop_reason


def test_anthropic_tools_are_used(messages: anthropic.Anthropic) -> None:
    answer = messages.messages.create(
        model=MODEL, max_tokens=200, messages=TURNS, extra_body={"seed": 1},
        tools=[{"name": "weather", "input_schema": CITY}], tool_choice={"type": "tool", "name": "weather"},
    )  # fmt: skip
    (block,) = answer.content
    assert block.type == "tool_use"
    assert block.input["city"] in {"Rome", "Oslo"}
    assert answer.stop_reason == "tool_use"
    with pytest.raises(anthropic.NotFoundError) as caught:
        messages.messages.create(model="nope", max_tokens=8, messages=TURNS)
    assert json.loads(caught.value.response.text)["error"]["type"] == "not_found_error"


def test_langchain_invokes_streams_and_binds_tools(langchain: ChatOpenAI) -> None:
    def weather(city: Literal["Rome", "Oslo"]) -> str:
        """The weather of a city."""
        return city

    turns: list[BaseMessage] = [HumanMessage("hi")]
    whole = langchain.invoke(turns)
    assert "".join(str(part.content) for part in langchain.stream(turns)) == whole.content
    called = langchain.bind_tools([weather], tool_choice="weather").invoke(turns)
    assert isinstance(called, AIMessage)
    (call,) = called.tool_calls
    assert (call["name"], call["args"]["city"] in {"Rome", "Oslo"}) == ("weather", True)
    after = [*turns, called, ToolMessage("sunny", tool_call_id=call["id"])]
    assert langchain.bind_tools([weather]).invoke(after).response_metadata["finish_reason"] in {"stop", "length"}


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_structured_output(langchain: ChatOpenAI, method: Literal["json_schema", "function_calling"]) -> None:
    trip = langchain.with_structured_output(Trip, method=method).invoke("Where to?")
    assert isinstance(trip, Trip)


def test_a_client_that_goes_away_frees_all_of_its_choices(swarm: TestSwarm, client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=MODEL, prompt="x", max_tokens=400, n=3, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    with httpx.Client(base_url=swarm.http) as looking:
        for _ in range(200):
            if not sum(node["num_sessions"] for node in looking.get("/api/v1/swarm").json()["nodes"]):
                return
    pytest.fail("sessions are left")
