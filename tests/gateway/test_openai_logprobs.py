"""Logprobs, odd texts and many clients, as OpenAI's own client sees them."""

import asyncio

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from gateway.fake_generations import MODEL, FakeGenerations, chunk, finished, scripted, started, token
from gateway.front_door import openai_client, serving

TURNS: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello?"}]
SURE = token("To", 5, -0.25, (5, "To", -0.25), (6, "\ufffd", -1.5), (9, "\ufffd", -3.0))
HALF = token("\ufffd", 7, float("-inf"))


async def chat_logprobs(client: AsyncOpenAI, *, stream: bool) -> list[object]:
    if not stream:
        answer = await client.chat.completions.create(model=MODEL, messages=TURNS, logprobs=True, top_logprobs=3)
        assert answer.choices[0].logprobs is not None
        return [entry.model_dump() for entry in answer.choices[0].logprobs.content or []]
    parts = await client.chat.completions.create(
        model=MODEL, messages=TURNS, logprobs=True, top_logprobs=3, stream=True
    )
    shown = [part.choices[0].logprobs async for part in parts]
    return [entry.model_dump() for logprobs in shown if logprobs for entry in logprobs.content or []]


async def test_a_chats_logprobs() -> None:
    async with openai_client(scripted(started(), chunk(0, "To", SURE), chunk(1, "", HALF), finished())) as client:
        plain = await chat_logprobs(client, stream=False)
        streamed = await chat_logprobs(client, stream=True)
    unlikely = {"token": "\ufffd", "bytes": None}
    likeliest = {"token": "To", "bytes": [84, 111], "logprob": -0.25}
    top = [likeliest, unlikely | {"logprob": -1.5}, unlikely | {"logprob": -3.0}]
    assert plain == streamed == [
        likeliest | {"top_logprobs": top}, unlikely | {"logprob": -9999.0, "top_logprobs": []}
    ]  # fmt: skip


async def test_a_completions_logprobs() -> None:
    events = (started(), chunk(0, "To", SURE), chunk(1, "", HALF), chunk(2, "é", HALF), chunk(3, "!"), finished())
    async with openai_client(scripted(*events)) as client:
        plain = (await client.completions.create(model=MODEL, prompt="x", logprobs=3)).choices[0].logprobs
        stream = await client.completions.create(model=MODEL, prompt="x", logprobs=3, stream=True)
        streamed = [part.choices[0].logprobs async for part in stream]
        without = (await client.completions.create(model=MODEL, prompt="x")).choices[0].logprobs
    assert plain is not None
    assert plain.model_dump() == {
        "tokens": ["To", "\ufffd", "\ufffd", "!"],
        "token_logprobs": [-0.25, -9999.0, -9999.0, -9999.0],
        "top_logprobs": [{"To": -0.25, "\ufffd": -1.5}, {}, {}, {}],
        "text_offset": [0, 2, 2, 3],
    }
    parts = [part for part in streamed if part]
    assert [offset for part in parts for offset in part.text_offset or []] == [0, 2, 2, 3]
    assert [text for part in parts for text in part.tokens or []] == plain.tokens
    assert without is None


async def test_a_long_stream_of_odd_text_arrives_unchanged() -> None:
    texts = ["a\nb", "\r\n\r\n", "data: [DONE]", "\u2028", "漢字", "\x00", '"\\'] * 200
    chunks = [chunk(i, text) for i, text in enumerate(texts)]
    async with openai_client(scripted(started(), *chunks, finished(num_tokens=len(texts)))) as client:
        stream = await client.completions.create(model=MODEL, prompt="x", stream=True)
        received = "".join([part.choices[0].text async for part in stream])
    assert received == "".join(texts)


async def test_many_clients_at_once_keep_their_own_answers() -> None:
    fake = FakeGenerations(
        script=lambda request: [started(), 0.01, chunk(0, str(request.sampling.seed)), 0.01, finished()]
    )
    async with serving(fake) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        answers = await asyncio.gather(
            *(client.completions.create(model=MODEL, prompt="x", seed=seed) for seed in range(50))
        )
    assert [answer.choices[0].text for answer in answers] == [str(seed) for seed in range(50)]
