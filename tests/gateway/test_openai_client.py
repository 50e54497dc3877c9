"""OpenAI's own client against the front door, over a real socket."""

from openai.types.chat import ChatCompletionUserMessageParam

from gateway.fake_generations import (
    MODEL,
    STAGES,
    WALL_CLOCK_S,
    FakeGenerations,
    chunk,
    example_model,
    example_swarm,
    finished,
    scripted,
    started,
    token,
)
from gateway.front_door import openai_client
from osai.coordinator.api import ChatMessage, GenerationRequest
from osai.core.sampling import SamplingParams

TURNS: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello?"}]
PIPELINE = [{"node": stage.node_id, "start": stage.span.start, "end": stage.span.end} for stage in STAGES]
HALF = token("\ufffd", 7, float("-inf"))


async def test_models_are_listed_and_found() -> None:
    view = example_swarm(models=(example_model(), example_model("other", replicas=(0,) * 6, signed=False)))
    async with openai_client(FakeGenerations(view=view)) as client:
        listed = (await client.models.list()).data
        one = await client.models.retrieve(MODEL)
    assert [(model.id, model.object, model.created) for model in listed] == [
        (MODEL, "model", 1_600_000_000),
        ("other", "model", 1_600_000_000),
    ]
    assert one == listed[0]
    assert (one.model_extra or {})["max_model_len"] == 2048
    assert [(model.model_extra or {})["covered"] for model in listed] == [True, False]


async def test_a_chat() -> None:
    fake = FakeGenerations()
    async with openai_client(fake) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=TURNS, seed=11)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Hello world", "length")
    assert choice.logprobs is None
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.created, answer.model) == ("chat.completion", int(WALL_CLOCK_S), MODEL)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 3, 7)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert (answer.model_extra or {})["osai"] == {
        "session": "s1", "seed": 11, "pipeline": PIPELINE, "ttft_s": 0.25, "decode_tokens_per_s": 40.0,
    }  # fmt: skip
    assert fake.requests == [
        GenerationRequest(
            model_id=MODEL,
            prompt=(ChatMessage(role="user", content="Hello?"),),
            sampling=SamplingParams(temperature=1.0, seed=11),
        )
    ]


async def test_an_answer_can_be_sent_back_as_a_turn() -> None:
    fake = FakeGenerations()
    async with openai_client(fake) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=TURNS)
        mine = answer.choices[0].message.model_dump()
        await client.chat.completions.create(model=MODEL, messages=[*TURNS, mine])  # type: ignore[list-item]
    assert fake.requests[1].prompt == (
        ChatMessage(role="user", content="Hello?"),
        ChatMessage(role="assistant", content="Hello world"),
    )


async def test_every_parameter_reaches_the_coordinator() -> None:
    fake = FakeGenerations()
    async with openai_client(fake) as client:
        await client.chat.completions.create(
            model=MODEL,
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
            ],
            temperature=0.5, top_p=0.9, presence_penalty=-1, frequency_penalty=1.5, seed=2**63,
            max_completion_tokens=9, stop=["a", "b"], logprobs=True, top_logprobs=3, n=1, user="u", metadata={"k": "v"},
            extra_body={"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True,
                        "stop_token_ids": [3]},
        )  # fmt: skip
    assert fake.requests == [
        GenerationRequest(
            model_id=MODEL,
            prompt=(ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hello")),
            sampling=SamplingParams(
                temperature=0.5, top_k=40, top_p=0.9, min_p=0.1, repetition_penalty=1.1, presence_penalty=-1.0,
                frequency_penalty=1.5, seed=2**63, num_logprobs=3,
            ),
            max_tokens=9,
            stop=("a", "b"),
            stop_token_ids=(3,),
            ignore_eos=True,
        )
    ]  # fmt: skip


async def test_a_chat_streams() -> None:
    async with openai_client(FakeGenerations()) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=TURNS, stream=True, seed=5)
        chunks = [part async for part in stream]
    deltas = [part.choices[0].delta for part in chunks]
    assert [delta.role for delta in deltas] == ["assistant", None, None, None, None]
    assert [delta.content for delta in deltas] == ["", "Hel", "lo", " world", None]
    assert [part.choices[0].finish_reason for part in chunks] == [None] * 4 + ["length"]
    assert {part.object for part in chunks} == {"chat.completion.chunk"}
    assert len({(part.id, part.created, part.model, part.system_fingerprint) for part in chunks}) == 1
    assert (chunks[0].model_extra or {})["osai"] == {"session": "s1", "seed": 5, "pipeline": PIPELINE}
    assert (chunks[-1].model_extra or {})["osai"]["ttft_s"] == 0.25
    assert all(part.usage is None for part in chunks)


async def test_a_stream_reports_its_usage_when_asked() -> None:
    async with openai_client(FakeGenerations()) as client:
        stream = await client.completions.create(
            model=MODEL, prompt="x", stream=True, stream_options={"include_usage": True}
        )
        chunks = [part async for part in stream]
    assert [part.choices[0].text for part in chunks if part.choices] == ["", "Hel", "lo", " world", ""]
    assert [part.usage is None for part in chunks] == [True] * 5 + [False]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7
    assert chunks[-1].usage.prompt_tokens_details is not None
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 3


async def test_a_completion_takes_text_or_token_ids_and_has_openais_default_length() -> None:
    fake = FakeGenerations()
    async with openai_client(fake) as client:
        answer = await client.completions.create(model=MODEL, prompt="Once")
        await client.completions.create(model=MODEL, prompt=["Once"])
        await client.completions.create(model=MODEL, prompt=[5, 6], max_tokens=2)
        await client.completions.create(model=MODEL, prompt=[[5, 6]], stop="\n")
    assert [(request.prompt, request.max_tokens, request.stop) for request in fake.requests] == [
        ("Once", 16, ()),
        ("Once", 16, ()),
        ((5, 6), 2, ()),
        ((5, 6), 16, ("\n",)),
    ]
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion", "Hello world", "length",
    )  # fmt: skip
    assert answer.id.startswith("cmpl-")


async def test_a_seed_is_drawn_and_told_where_none_is_given() -> None:
    fake = FakeGenerations()
    async with openai_client(fake) as client:
        answers = [await client.completions.create(model=MODEL, prompt="x") for _ in range(2)]
    told = [(answer.model_extra or {})["osai"]["seed"] for answer in answers]
    assert told == [request.sampling.seed for request in fake.requests]
    assert told[0] != told[1]


async def test_text_that_lags_is_not_sent_early() -> None:
    fake = scripted(started(), chunk(0, "", HALF), chunk(1, "é", HALF), chunk(2, "!"), finished("stop"))
    async with openai_client(fake) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=TURNS, stream=True)
        contents = [part.choices[0].delta.content async for part in stream]
    assert contents == ["", "é", "!", None]
