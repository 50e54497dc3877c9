"""Sessions of named operators: no node of anybody else ever takes part, whatever befalls them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.builders import MODEL, model, node, span, stage
from coordinator.fake_stage import FakeStage, Keeping, stages, tokens
from coordinator.sim_world import SimWorld
from coordinator.test_session_simulation import MIXED, PROMPT, bad_luck, check
from coordinator.world import REQUEST, World, failure, three, world
from osai.coordinator.api import (
    Finished,
    GenerationEvent,
    GenerationRequest,
    KnownToken,
    Resumption,
    Waiting,
)
from osai.coordinator.catalog import ServedModel
from osai.coordinator.client_wire import read_request
from osai.coordinator.plan import plan_generation
from osai.coordinator.routes.routing import RouteWish, find_pipeline, find_standby, is_routable
from osai.coordinator.sessions.actions import (
    Action,
    Detour,
    FindPipeline,
    FindStandby,
    Follow,
    Found,
    Open,
    OpenFollower,
    Resume,
    SendIds,
)
from osai.coordinator.sessions.config import SupervisionConfig
from osai.coordinator.sessions.route_finder import RouteFinder
from osai.coordinator.swarm import NodeState, Swarm
from osai.coordinator.text import Tokenizer
from osai.core.errors import InvalidRequestError, NotCoveredError
from osai.proto import client_pb2

ALICE, BOB, EVE = b"a" * 32, b"b" * 32, b"e" * 32
LAYERS = 4
NAMES = [f"n{i}" for i in range(8)]
WISH = RouteWish(num_tokens=10)


@pytest.fixture(scope="module")
def served(tokenizer: Tokenizer) -> ServedModel:
    return model(tokenizer, MODEL, layer_bytes=(100,) * LAYERS)


@st.composite
def swarms(draw: st.DrawFn) -> list[NodeState]:
    """Nodes of one operator or another, and of nobody."""
    nodes = []
    for name in NAMES[: draw(st.integers(1, len(NAMES)))]:
        start = draw(st.integers(0, LAYERS - 1))
        hosted = span(start, draw(st.integers(start + 1, LAYERS)), step_time_s=draw(st.floats(0.001, 1.0)))
        operator = draw(st.sampled_from([ALICE, BOB, EVE, b""]))
        nodes.append(node(name, hosted, operator=operator, protocol_version=draw(st.sampled_from([1, 2, 3]))))
    return nodes


OPERATORS = st.frozensets(st.sampled_from([ALICE, BOB, EVE]), min_size=1)
SOME = st.frozensets(st.sampled_from(NAMES), max_size=3)


def with_digest(nodes: Iterable[NodeState], served: ServedModel) -> list[NodeState]:
    digest = served.manifest.digest
    return [replace(n, spans=tuple(replace(s, manifest_digest=digest) for s in n.spans)) for n in nodes]


def detours(nodes: list[NodeState], kept: frozenset[str], others: tuple[frozenset[str], ...]) -> Detour:
    held = {n.node_id: n.spans[0].layers for n in nodes if n.node_id in kept}
    return Detour(avoid=others[0], suspects=others[1], kept=held)


@given(nodes=swarms(), operators=OPERATORS, kept=SOME, others=st.tuples(SOME, SOME))
def test_a_route_is_that_of_a_swarm_of_these_operators_nodes_alone(
    nodes: list[NodeState],
    operators: frozenset[bytes],
    kept: frozenset[str],
    others: tuple[frozenset[str], ...],
    served: ServedModel,
) -> None:
    """Stronger than that no other node is in it: others do not even matter to it."""
    nodes = with_digest(nodes, served)
    detour = detours(nodes, kept, others)
    free = replace(WISH, avoid=detour.avoid, suspects=detour.suspects, kept=detour.kept)
    theirs = [n for n in nodes if n.operator in operators]
    for stand_in in [stage(n.node_id, n.spans[0].layers.start, n.spans[0].layers.end) for n in nodes]:
        found = find_standby(nodes, served, stand_in, replace(free, operators=operators))
        assert found is None or found.node_id in {n.node_id for n in theirs}
    if not is_routable(theirs, served):
        with pytest.raises(NotCoveredError, match="of the operators named"):
            find_pipeline(nodes, served, replace(free, operators=operators))
        return
    assert find_pipeline(nodes, served, replace(free, operators=operators)) == find_pipeline(theirs, served, free)


@given(nodes=swarms(), operators=OPERATORS, kept=SOME, others=st.tuples(SOME, SOME))
def test_whatever_a_session_looks_for_is_of_its_operators(
    nodes: list[NodeState],
    operators: frozenset[bytes],
    kept: frozenset[str],
    others: tuple[frozenset[str], ...],
    served: ServedModel,
) -> None:
    """The one place that picks nodes for sessions: first pipelines, replacements, moves and followers."""
    nodes, swarm = with_digest(nodes, served), Swarm()
    for each in nodes:
        swarm.heard(each, 0.0)
    request = GenerationRequest(model_id=MODEL, prompt=(1, 2, 3), max_tokens=4, trusted_operators=operators)
    routes = RouteFinder(served, plan_generation(request, (1, 2, 3), served.facts), swarm, dict)
    detour, picked = detours(nodes, kept, others), set[str]()
    try:
        picked |= {each.node_id for each in routes.first(others[0]) or ()}
    except NotCoveredError as e:
        assert "operators named" in e.message  # noqa: PT017 - it need not be raised
    found = routes.find(FindPipeline(detour=detour))
    picked |= {each.node_id for each in found.pipeline} if isinstance(found, Found) else set()
    for each in nodes:
        view = stage(each.node_id, each.spans[0].layers.start, each.spans[0].layers.end)
        follower = routes.standby(FindStandby(stage=view, detour=detour))
        picked |= {follower.node_id} if follower else set()
    assert picked <= {n.node_id for n in nodes if n.operator in operators}


def test_what_their_nodes_lack_is_said(served: ServedModel) -> None:
    nodes = with_digest(
        [node("a", span(0, 2), operator=ALICE), node("b", span(2, 4), operator=BOB), node("e", span(0, 4))], served
    )
    alice = replace(WISH, operators=frozenset({ALICE}))
    with pytest.raises(NotCoveredError, match=r"^no node of the operators named hosts layers 2:4 of me/small; "):
        find_pipeline(nodes, served, alice)
    both = find_pipeline(nodes, served, replace(WISH, operators=frozenset({ALICE, BOB})))
    assert [each.node_id for each in both or ()] == ["a", "b"]
    crossed = with_digest([node("a", span(0, 3), operator=ALICE), node("b", span(2, 4), operator=ALICE)], served)
    with pytest.raises(NotCoveredError, match="the spans of the operators named of me/small do not join"):
        find_pipeline(crossed, served, alice)


class OperatedWorld(SimWorld):
    """Simulated stages of which some are the session's operators'."""

    def _nodes(self) -> list[NodeState]:
        return [replace(each, operator=ALICE if is_alices(each.node_id) else EVE) for each in super()._nodes()]

    def _wish(self, detour: Detour, min_version: int = 1) -> RouteWish:
        return replace(super()._wish(detour, min_version), operators=frozenset({ALICE}))


def is_alices(name: str) -> bool:
    return not name.endswith("2")


def told(action: Action) -> set[str]:
    """Nodes that an action gives something of the session."""
    match action:
        case Open():
            return {each.node_id for each in action.pipeline}
        case OpenFollower():
            return {action.follower.node_id, *(each.node_id for each in action.pipeline)}
        case Resume() | SendIds():
            return {action.stage.node_id}
        case Follow():
            return {action.stage.node_id} | ({action.follower.node_id} if action.follower else set())
    return set()


@pytest.mark.parametrize("attempt", [0, 1], ids=["new", "resumed"])
def test_bad_luck_brings_no_other_node_in(attempt: int) -> None:
    num_recoveries = 0
    for seed in range(60):
        it = OperatedWorld(
            seed=seed, spans=MIXED, prompt=PROMPT, max_tokens=60, standby=True, num_tokens=3 * attempt, attempt=attempt
        )
        bad_luck(it)
        it.run()
        check(it)
        assert {name for action in it.told for name in told(action)} <= set(filter(is_alices, MIXED))
        num_recoveries += it.session.num_recoveries
    assert num_recoveries > 20


TRUSTING = replace(REQUEST, trusted_operators=frozenset({ALICE, BOB}))


@asynccontextmanager
async def mixed(
    tokenizer: Tokenizer, config: SupervisionConfig | None = None, *, standby: bool = False
) -> AsyncIterator[tuple[World, list[FakeStage], FakeStage]]:
    """Three stages of Alice's, and one of Eve's that could do everything, and faster."""
    members = [FakeStage(name, Keeping()) for name in ("head", "middle", "tail")]
    eve = FakeStage("eve", Keeping())
    async with stages(*members, eve), world(tokenizer, config, standby=standby) as it:
        for i, member in enumerate(members):
            it.announce(member, 2 * i, 2 * i + 2, operator=ALICE)
        it.announce(eve, 0, 6, step_time_s=0.0001, operator=EVE)
        yield it, members, eve


async def begun(
    it: World, head: FakeStage, tail: FakeStage, request: GenerationRequest = TRUSTING
) -> tuple[asyncio.Task[list[GenerationEvent]], int]:
    async def all_of_it() -> list[GenerationEvent]:
        async with asyncio.timeout(8), aclosing(it.generations.generate(request)) as events:
            return [event async for event in events]

    running = asyncio.create_task(all_of_it())
    session = (await head.got("frames")).frames.frames[0].session
    tail.say(tokens(session, 60, 61))
    await asyncio.sleep(0.05)
    return running, session


async def test_a_lost_stage_is_replaced_by_theirs_alone_however_long_it_takes(tokenizer: Tokenizer) -> None:
    late, config = FakeStage("late", Keeping()), SupervisionConfig(retry_s=0.05)
    async with stages(late), mixed(tokenizer, config, standby=True) as (it, (head, middle, tail), eve):
        running, session = await begun(it, head, tail)
        await middle.die()
        await asyncio.sleep(0.3)
        it.announce(eve, 2, 4, step_time_s=0.0001, operator=EVE)
        it.generations.swarm_changed()
        await asyncio.sleep(0.2)
        it.announce(late, 2, 4, operator=BOB)
        it.generations.swarm_changed()
        await late.got("resume")
        tail.say(tokens(session, 62, first=2, epoch=2, finish="stop"))
        events = await running
        assert isinstance(events[-1], Finished)
        (waiting, *_) = [event for event in events if isinstance(event, Waiting)]
        assert waiting.reason.startswith("no node of the operators named hosts layers 2:4 of me/small")
        assert (eve.num_links, eve.received) == (0, [])


async def test_a_session_whose_operators_do_not_come_back_says_so(tokenizer: Tokenizer) -> None:
    config = SupervisionConfig(coverage_wait_s=0.3, retry_s=0.05)
    async with mixed(tokenizer, config) as (it, (head, middle, tail), eve):
        running, _ = await begun(it, head, tail)
        await middle.die()
        with pytest.raises(NotCoveredError, match="no node of the operators named hosts layers 2:4"):
            await running
        assert eve.num_links == 0


async def test_a_request_that_they_can_not_serve_fails_at_once_and_is_sent_to_nobody(tokenizer: Tokenizer) -> None:
    async with mixed(tokenizer) as (it, members, eve):
        error = await failure(it, replace(TRUSTING, trusted_operators=frozenset({BOB})))
        assert isinstance(error, NotCoveredError)
        assert "no node of the operators named hosts layers 0:6" in error.message
        assert [member.num_links for member in (*members, eve)] == [0] * 4


async def test_another_coordinator_keeps_to_them_and_asks_nobody_that_a_client_claims_to_have_used(
    tokenizer: Tokenizer,
) -> None:
    async with mixed(tokenizer) as (it, (head, _, tail), eve):
        claimed = (stage("eve", 0, 6, eve.address),)
        resume = Resumption(session=7, attempt=1, tokens=(KnownToken(token_id=60),), pipeline=claimed)
        running, session = await begun(it, head, tail, replace(TRUSTING, resume=resume))
        assert session == 7
        tail.say(tokens(7, 61, 62, first=1, epoch=(1 << 16) + 1, finish="stop"))
        assert isinstance((await running)[-1], Finished)
        assert eve.num_links == 0


async def test_kv_is_shared_among_sessions_of_the_same_operators_alone(tokenizer: Tokenizer) -> None:
    """Else a node of theirs could give a session KV that anybody's node had a part in, or that a stranger claimed."""
    prompt = tuple(range(60, 100))
    anybody = replace(REQUEST, prompt=prompt, max_tokens=4)
    wanted = [anybody, *(replace(anybody, trusted_operators=frozenset(k)) for k in ({ALICE}, {ALICE}, {ALICE, BOB}))]
    async with three(tokenizer) as (it, members), three(tokenizer) as (other, _):
        names = []
        for i, member in enumerate(members):
            for each in (it, other):
                each.announce(member, 2 * i, 2 * i + 2, operator=ALICE, started_at_s=60.0)
        for number, (coordinator, request) in enumerate([*((it, w) for w in wanted), (other, wanted[1])], 1):
            running = asyncio.create_task(all_of(coordinator, request))
            opened = (await members[0].got("open", number)).open
            await members[0].got("frames", number)
            members[2].say(tokens(opened.session, 7, 8, 9, 10, finish="length"))
            await running
            closed = (await members[0].got("close", number)).close
            assert list(closed.block_hashes)[: len(opened.block_hashes)] == list(opened.block_hashes)
            assert len(opened.block_hashes) == 2
            names.append(tuple(opened.block_hashes))
    assert names[1] == names[2]
    assert len(set(names)) == 4


async def all_of(it: World, request: GenerationRequest) -> list[GenerationEvent]:
    async with asyncio.timeout(8), aclosing(it.generations.generate(request)) as events:
        return [event async for event in events]


def test_a_clients_request_names_operators_by_their_keys() -> None:
    message = client_pb2.GenerateRequest(prompt="x", trusted_operators=[BOB, ALICE, BOB])
    assert read_request(message, lambda: 1).trusted_operators == {ALICE, BOB}
    assert read_request(client_pb2.GenerateRequest(prompt="x"), lambda: 1).trusted_operators == frozenset()
    for wrong in ([ALICE, b"short"], [bytes([i]) * 32 for i in range(65)]):
        with pytest.raises(InvalidRequestError, match="trusted operator"):
            read_request(client_pb2.GenerateRequest(prompt="x", trusted_operators=wrong), lambda: 1)
