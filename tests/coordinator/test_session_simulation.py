"""Sessions among simulated stages, in whatever bad luck a seed brings: complete, in order, with the right tokens."""

from functools import partial

import pytest

from coordinator.sim_stage import reference
from coordinator.sim_world import NUM_LAYERS, SimWorld
from osai.coordinator.api import Rerouted
from osai.coordinator.sessions.actions import Begin, Resume
from osai.core.errors import ResourceExhaustedError

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
THREE_EACH = {f"{part}{i}": (2 * k, 2 * k + 2) for k, part in enumerate("abc") for i in range(3)}
MIXED = THREE_EACH | {"wide0": (0, 4), "wide1": (2, 6), "all": (0, 6)}


def check(world: SimWorld) -> None:
    """It has ended as if nothing had happened."""
    expected = reference(PROMPT, world.max_tokens, NUM_LAYERS)[world.num_tokens :]
    assert world.end is not None
    assert world.end.error is None, world.end.error
    assert world.end.reason == "length"
    assert world.emitted == expected


def test_an_undisturbed_run() -> None:
    world = SimWorld(seed=1, spans=THREE_EACH, prompt=PROMPT, max_tokens=30)
    world.run()
    check(world)
    assert world.session.num_recoveries == 0


def strike(world: SimWorld) -> None:
    """Something befalls a stage, or some other node."""
    chance = world.random
    pipeline = [stage.node_id for stage in world.session.pipeline]
    place = chance.randrange(len(pipeline))
    name = pipeline[place] if chance.random() < 0.8 else chance.choice(sorted(world.spans))
    stage = world.stages[name]
    kind, later_s = chance.randrange(9), chance.uniform(0.2, 5.0)
    match kind:
        case 0 | 1:
            world.kill(name, later_s)
        case 2 if name not in world.gone:
            world.lose(name, later_s)
        case 3:
            edge = (name, pipeline[(place + 1) % len(pipeline)])
            world.break_edge(*edge)
            world.after(later_s, lambda: world.broken.discard(edge))
        case 4:
            world.draining.add(name)
            world.after(later_s, lambda: world.draining.discard(name))
        case 5:
            world.suspects.add(name)
            world.after(later_s, lambda: world.suspects.discard(name))
        case 6:
            world.stages[name].lose_journals()
        case 7:
            stage.refuses = ResourceExhaustedError("no KV blocks left")
            world.after(later_s, lambda: setattr(stage, "refuses", None))
        case 8:
            stage.is_stuck = True
            world.after(later_s, stage.go_on)


def bad_luck(world: SimWorld) -> None:
    """Some of everything, at times that the seed chooses."""
    for _ in range(world.random.randint(2, 8)):
        world.after(world.random.uniform(0.1, 3.0), lambda: strike(world))
    for name in sorted(world.spans):
        world.stages[name].can_cut = world.random.random() < 0.8
    world.watch()


@pytest.mark.parametrize("standby", [False, True])
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_whatever_happens_the_tokens_are_the_same(*, first: int, standby: bool) -> None:
    num_recoveries = 0
    for seed in range(first, first + 50):
        spans = MIXED if seed % 2 else THREE_EACH
        world = SimWorld(seed=seed, spans=spans, prompt=PROMPT, max_tokens=60, standby=standby)
        bad_luck(world)
        world.run()
        check(world)
        num_recoveries += world.session.num_recoveries
        assert sum(isinstance(action, Begin) for action in world.told) == 1
        assert sum(isinstance(action, Rerouted) for action in world.told) == world.session.num_recoveries
    assert num_recoveries > 40


@pytest.mark.parametrize("num_tokens", [0, 1, 30, 59])
def test_a_resumed_session_goes_on_where_its_client_is(num_tokens: int) -> None:
    for seed in range(20):
        world = SimWorld(
            seed=seed, spans=MIXED, prompt=PROMPT, max_tokens=60, num_tokens=num_tokens, attempt=1, standby=True
        )
        bad_luck(world)
        world.run()
        check(world)
        assert world.session.epoch >= (1 << 16) + 1


def test_old_nodes_begin_again_with_all_that_is_known() -> None:
    num_recoveries = 0
    for seed in range(60):
        old = frozenset(name for name in THREE_EACH if name.endswith("0") or (seed % 2 and name.endswith("1")))
        world = SimWorld(seed=seed, spans=THREE_EACH, prompt=PROMPT, max_tokens=60, old=old)
        bad_luck(world)
        world.run()
        check(world)
        num_recoveries += world.session.num_recoveries
    assert num_recoveries > 60


def test_a_session_that_ends_is_held_by_no_node() -> None:
    for seed in range(40):
        world = SimWorld(seed=seed, spans=THREE_EACH, prompt=PROMPT, max_tokens=60, standby=True)
        for _ in range(4):
            name = world.random.choice(sorted(world.spans))
            world.after(world.random.uniform(0.1, 2.0), partial(world.kill, name, 1.0))
        world.run()
        world.settle()
        assert [stage.name for stage in world.stages.values() if stage.held] == []


def test_a_standby_takes_over_without_much_to_compute() -> None:
    """All but a few rows are there: none is computed from the beginning."""
    world = SimWorld(seed=3, spans=THREE_EACH, prompt=PROMPT, max_tokens=60, standby=True)
    world.after(1.5, lambda: world.kill(world.session.pipeline[1].node_id))
    world.run()
    check(world)
    assert world.session.num_recoveries == 1
    resumed = [action for action in world.told if isinstance(action, Resume)]
    assert len(resumed) == 3
    assert min(action.position for action in resumed) > len(PROMPT) + 10


def test_a_node_that_leaves_hands_over_without_a_pause() -> None:
    world = SimWorld(seed=4, spans=THREE_EACH, prompt=PROMPT, max_tokens=60)
    leaving = world.session.pipeline[0].node_id
    world.after(0.5, lambda: world.draining.add(leaving))
    world.watch()
    world.run()
    check(world)
    (rerouted,) = [action for action in world.told if isinstance(action, Rerouted)]
    assert rerouted.reason == f"node {leaving} is about to leave"
    assert leaving not in {stage.node_id for stage in rerouted.pipeline}
    resumed = [action for action in world.told if isinstance(action, Resume)]
    assert min(action.position for action in resumed) > len(PROMPT)
