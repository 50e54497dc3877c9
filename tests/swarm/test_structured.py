"""Texts held to a grammar, and vectors of prompts, by a swarm of three stages."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing

import jsonschema
import pytest
import torch

from families.fixtures import Checkpoints
from families.reference import load_whole
from osai.client import AsyncClient, Chunk, Completion, GenerationOptions, Grammar
from osai.client.completion import CompletionBuilder
from osai.core.errors import InvalidRequestError
from swarm.programs import Hosted, Publisher, SignedModel, TestSwarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(120)]

PROMPT = [5, 99, 250, 17, 42, 8, 301] * 5
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "scores": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 40,
                   "maxItems": 60},
        "done": {"type": "boolean"},
    },
    "required": ["name", "scores", "done"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}  # fmt: skip
GREEDY: GenerationOptions = {"grammar": Grammar(kind="json_schema", text=json.dumps(SCHEMA)), "max_tokens": 300}
SEEDED: GenerationOptions = {**GREEDY, "temperature": 1.0, "seed": 77, "frequency_penalty": 0.4, "logit_bias": {70: -2}}


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    return Publisher(tmp_path_factory.mktemp("publisher"))


@pytest.fixture(scope="module")
def model(publisher: Publisher, checkpoints: Checkpoints) -> SignedModel:
    return publisher.sign("test/llama", checkpoints("llama"))


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory, publisher: Publisher, model: SignedModel) -> Iterator[TestSwarm]:
    with TestSwarm(tmp_path_factory.mktemp("swarm"), publisher.public_key) as running:
        running.serve([model])
        running.add_nodes([[Hosted(model=model, span=span)] for span in ("0:2", "2:4", "4:6")])
        yield running


async def followed(client: AsyncClient, options: GenerationOptions, on_tokens: asyncio.Barrier) -> Completion:
    """A generation that meets `on_tokens` once there are some tokens."""
    builder = CompletionBuilder(with_logprobs=False)
    async with aclosing(client.generate(PROMPT, **options)) as events:
        async for event in events:
            builder.add(event)
            if isinstance(event, Chunk) and event.index == 8:
                await on_tokens.wait()
    return builder.completion()


async def test_a_model_of_random_weights_keeps_to_a_schema_and_goes_on_the_same_after_its_tail_was_killed(
    swarm: TestSwarm, model: SignedModel
) -> None:
    async with AsyncClient(swarm.address) as client:
        whole = [await client.complete(PROMPT, **options) for options in (GREEDY, SEEDED)]
        for completion in whole:
            jsonschema.validate(json.loads(completion.text), SCHEMA)
            assert completion.finish_reason == "stop"
        assert whole[0].token_ids != whole[1].token_ids

        barrier = asyncio.Barrier(3)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks = [group.create_task(followed(client, options, barrier)) for options in (GREEDY, SEEDED)]
            await barrier.wait()
            swarm.nodes["node-2"].kill()
            swarm.start_node("spare", [Hosted(model=model, span="4:6")])
        again = [task.result() for task in tasks]
    assert [completion.num_recoveries for completion in again] == [1, 1]
    assert [completion.token_ids for completion in again] == [completion.token_ids for completion in whole]
    assert [completion.text for completion in again] == [completion.text for completion in whole]


@pytest.mark.parametrize("pooling", ["mean", "last"])
async def test_an_embedding_is_made_of_transformers_hidden_states(
    swarm: TestSwarm, model: SignedModel, pooling: str
) -> None:
    reference = load_whole(model.folder)
    with torch.inference_mode():
        hidden = reference.model(torch.tensor([PROMPT])).last_hidden_state[0].double()
    wanted = torch.nn.functional.normalize(hidden.mean(0) if pooling == "mean" else hidden[-1], dim=0)
    async with AsyncClient(swarm.address) as client:
        first = await client.embed(PROMPT, pooling="mean" if pooling == "mean" else "last")
        second = await client.embed(PROMPT, pooling="mean" if pooling == "mean" else "last")  # its KV is there already
    for found in (first, second):
        assert found.num_prompt_tokens == len(PROMPT)
        torch.testing.assert_close(torch.tensor(found.vector, dtype=torch.float64), wanted, atol=2e-6, rtol=0)


async def test_a_grammar_that_cannot_be_used_is_refused_in_the_librarys_words(swarm: TestSwarm) -> None:
    async with AsyncClient(swarm.address) as client:
        with pytest.raises(InvalidRequestError, match="unclosed group"):
            await client.complete(PROMPT, grammar=Grammar(kind="regex", text="(a"))
