"""The client and the coordinator's own service for clients, with nothing but the swarm scripted."""

from contextlib import AsyncExitStack

from gateway.fake_generations import HANG, STAGES, FakeGenerations, Step, example_swarm, finished, token
from osai.client import AsyncClient, Chunk, GenerationEvent, Rerouted, Waiting
from osai.coordinator import api
from osai.coordinator.client_service import ClientService
from osai.core.rpc import bind, make_server
from osai.proto import client_pb2_grpc

NUM_TOKENS = 6


def going_on(request: api.GenerationRequest) -> list[Step]:
    """As a coordinator does: from the first token that the client lacks; it waits and moves on its way."""
    known = len(request.resume.tokens) if request.resume else 0
    started = api.Started(
        session_id=f"{request.resume.session if request.resume else 2**63:016x}",
        model_id="m",
        num_prompt_tokens=4,
        seed=request.sampling.seed,
        pipeline=STAGES,
    )
    tokens = [token("t", i, -0.5 * i, (i, "t", -0.5 * i)) for i in range(NUM_TOKENS)]
    chunks = [api.Chunk(index=i, tokens=(tokens[i],), text=f"t{i}") for i in range(known, NUM_TOKENS)]
    wait = api.Waiting(reason="no node", remaining_s=5.0)
    return [started, wait, api.Rerouted(pipeline=STAGES, reason="a", pause_s=0.5), *chunks, finished("stop", 6)]


async def serving(stack: AsyncExitStack, generations: FakeGenerations) -> str:
    """Serve until the stack is closed; HOST:PORT."""
    server = make_server()
    client_pb2_grpc.add_CoordinatorServicer_to_server(ClientService("c" * 32, generations, lambda: 11), server)
    port = bind(server, "127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return f"127.0.0.1:{port}"


async def test_what_the_client_resumes_with_is_what_the_coordinator_reads() -> None:
    second = FakeGenerations(script=going_on)
    events: list[GenerationEvent] = []
    async with AsyncExitStack() as before, AsyncExitStack() as after:
        there = await serving(after, second)
        view = example_swarm(coordinators=("me:1", there))
        first = FakeGenerations(script=lambda request: [*going_on(request)[:5], HANG], view=view)
        async with AsyncClient(await serving(before, first)) as client:
            async for event in client.generate("x", num_logprobs=1):
                events.append(event)
                if len(events) == 5:
                    await before.aclose()
    assert first.num_cancelled == 1
    assert [event.index for event in events if isinstance(event, Chunk)] == list(range(NUM_TOKENS))
    assert "".join(event.text for event in events if isinstance(event, Chunk)) == "t0t1t2t3t4t5"
    assert [type(event) for event in events].count(Waiting) == 2
    assert [type(event) for event in events].count(Rerouted) == 3  # one of each coordinator, and the move between
    (request,) = second.requests
    assert request.sampling.seed == 11  # that the first one drew
    assert request.resume == api.Resumption(
        session=2**63,
        attempt=1,
        tokens=(
            api.KnownToken(token_id=0, logprob=0.0, top=((0, 0.0),)),
            api.KnownToken(token_id=1, logprob=-0.5, top=((1, -0.5),)),
        ),
        pipeline=STAGES,
    )
