"""Who is to host what, as nodes come, fail, drain and go."""

import pytest

from coordinator.builders import MODEL, model, node, span
from osai.coordinator.catalog import Catalog
from osai.coordinator.placing.registrar import Registrar, Wish
from osai.coordinator.swarm import Swarm
from osai.coordinator.text import Tokenizer
from osai.core.errors import AssignmentError, InvalidRequestError, UnknownModelError
from osai.core.layers import LayerRange
from osai.core.precision import parse_precision

ANY = Wish(model_id="", layers=None)
OTHER = "me/other"


class Door:
    """A coordinator's registrar over two models: `me/small` of six layers of 100 bytes, `me/other` of four."""

    def __init__(self, tokenizer: Tokenizer, *model_ids: str) -> None:
        sizes = {MODEL: (100,) * 6, OTHER: (100,) * 4}
        self.models = {name: model(tokenizer, name, sizes[name]) for name in model_ids}
        self.swarm = Swarm()
        self.registrar = Registrar(Catalog(list(self.models.values())), self.swarm)
        self.digest = self.models[MODEL].manifest.digest if MODEL in self.models else b""

    def join(self, name: str, *wishes: Wish, memory_bytes: int = 10_000) -> list[tuple[str, str]]:
        assigned = self.registrar.joined(name, wishes, "float32", memory_bytes)
        return [(each.model.model_id, str(each.layers)) for each in assigned]


@pytest.fixture
def door(tokenizer: Tokenizer) -> Door:
    return Door(tokenizer, MODEL)


def test_nodes_that_join_at_once_get_different_layers(door: Door) -> None:
    """None of them has announced anything yet."""
    assert door.join("a", ANY, memory_bytes=216) == [(MODEL, "0:2")]  # two layers and the embedding
    assert door.join("b", ANY, memory_bytes=216) == [(MODEL, "2:4")]
    assert door.join("c", ANY, memory_bytes=216) == [(MODEL, "4:6")]
    assert door.join("d", ANY) == [(MODEL, "0:6")]


def test_a_node_that_goes_leaves_its_layers_to_the_next(door: Door) -> None:
    door.join("a", ANY, memory_bytes=216)
    door.join("b", ANY, memory_bytes=216)
    door.registrar.left("a")
    assert door.join("c", ANY, memory_bytes=216) == [(MODEL, "0:2")]
    door.registrar.left("stranger")


def test_records_of_nodes_elsewhere_count(door: Door) -> None:
    door.swarm.heard(node("x", span(0, 4, manifest_digest=door.digest)), 0.0)
    assert door.join("a", ANY) == [(MODEL, "4:6")]


@pytest.mark.parametrize(
    ("fields", "state", "expected"),
    [
        ({"state": "loading", "manifest_digest": b""}, "joining", "3:6"),
        ({"state": "failed"}, "ready", "0:6"),
        ({}, "draining", "0:6"),
        ({"manifest_digest": b"x" * 32}, "ready", "0:6"),  # other weights under the same name: no help here
        ({"model_id": OTHER}, "ready", "0:6"),
    ],
)
def test_which_spans_of_others_count(door: Door, fields: dict[str, object], state: str, expected: str) -> None:
    found = span(0, 3, **{"manifest_digest": door.digest, **fields})
    door.swarm.heard(node("x", found, state=state), 0.0)
    assert door.join("a", ANY) == [(MODEL, expected)]


@pytest.mark.parametrize(("state", "span_state"), [("draining", "ready"), ("joining", "failed")])
def test_a_span_that_was_assigned_here_and_will_not_serve_does_not_count(
    door: Door, state: str, span_state: str
) -> None:
    """The assignment used to outlive what the node said of it, so that nobody was given its layers."""
    assert door.join("a", ANY, memory_bytes=316) == [(MODEL, "0:3")]
    door.swarm.heard(node("a", span(0, 3, manifest_digest=door.digest, state=span_state), state=state), 0.0)
    assert door.join("b", ANY) == [(MODEL, "0:6")]


def test_a_node_that_comes_back_keeps_what_it_hosts(door: Door) -> None:
    door.swarm.heard(node("a", span(2, 5, manifest_digest=door.digest)), 0.0)
    assert door.join("a", ANY) == []
    assert door.join("a", Wish(model_id=MODEL, layers=None)) == []
    assert door.join("b", ANY) == [(MODEL, "0:2")]


def test_a_node_whose_span_failed_gets_another(door: Door) -> None:
    door.swarm.heard(node("a", span(2, 5, state="failed", manifest_digest=door.digest)), 0.0)
    assert door.join("a", ANY) == [(MODEL, "0:6")]


def test_wished_layers_are_given_as_wished(door: Door) -> None:
    wish = Wish(model_id=MODEL, layers=LayerRange(1, 3))
    assert door.join("a", wish) == [(MODEL, "1:3")]
    assert door.join("b", wish) == [(MODEL, "1:3")]
    assert door.join("c", ANY) == [(MODEL, "3:6")]  # longer than 0:1, and the head takes a layer of the same size


@pytest.mark.parametrize(
    ("wishes", "error_type", "words"),
    [
        ((Wish(model_id="me/none", layers=None),), UnknownModelError, "not served here"),
        ((Wish(model_id=MODEL, layers=LayerRange(4, 7)),), InvalidRequestError, "reach past the model's 6 layers"),
        ((Wish(model_id=MODEL, layers=None),) * 2, InvalidRequestError, "wished for twice"),
        ((ANY, ANY), AssignmentError, "no model left"),
    ],
)
def test_wishes_that_can_not_be_met(
    door: Door, wishes: tuple[Wish, ...], error_type: type[Exception], words: str
) -> None:
    with pytest.raises(error_type, match=words):
        door.join("a", *wishes)


def test_layers_alone_are_of_the_only_model_and_refused_where_there_are_more(door: Door, tokenizer: Tokenizer) -> None:
    wish = Wish(model_id="", layers=LayerRange(0, 2))
    assert door.join("a", wish) == [(MODEL, "0:2")]
    with pytest.raises(InvalidRequestError, match=r"layers 0:2 of which model\? .*served are: me/small, me/other"):
        Door(tokenizer, MODEL, OTHER).join("a", wish)


def test_a_node_without_memory_for_a_layer_is_told_so(door: Door) -> None:
    with pytest.raises(AssignmentError, match=r"not one layer of me/small fits in 0 MiB .* --memory"):
        door.join("a", ANY, memory_bytes=99)


def test_a_coordinator_without_models_says_so(tokenizer: Tokenizer) -> None:
    with pytest.raises(AssignmentError, match="no model left to assign; start the coordinator with more --model"):
        Door(tokenizer).join("a", ANY)


def test_memory_is_shared_among_the_wishes(tokenizer: Tokenizer) -> None:
    door = Door(tokenizer, MODEL, OTHER)
    wishes = [Wish(model_id=name, layers=None) for name in (MODEL, OTHER)]
    assert door.join("a", *wishes, memory_bytes=640) == [(MODEL, "0:3"), (OTHER, "0:3")]
    assert door.join("b", ANY, Wish(model_id=MODEL, layers=None), memory_bytes=640) == [(MODEL, "3:6"), (OTHER, "3:4")]


def test_any_takes_the_model_that_needs_it_most(tokenizer: Tokenizer) -> None:
    door = Door(tokenizer, MODEL, OTHER)
    assert door.join("a", ANY) == [(MODEL, "0:6")]
    assert door.join("b", ANY) == [(OTHER, "0:4")]
    assert door.join("c", ANY) == [(MODEL, "0:6")]


def test_any_takes_another_model_where_the_neediest_does_not_fit(tokenizer: Tokenizer) -> None:
    big, small = model(tokenizer, MODEL, (1000,) * 2), model(tokenizer, OTHER, (100,) * 4)
    registrar = Registrar(Catalog([big, small]), Swarm())
    assigned = registrar.joined("a", [ANY], "float32", 500)
    assert [(each.model.model_id, str(each.layers)) for each in assigned] == [(OTHER, "0:4")]


def test_half_precision_takes_half(door: Door) -> None:
    assert door.models[MODEL].size(parse_precision("bfloat16")).layer_bytes == (50,) * 6
    assigned = door.registrar.joined("a", [ANY], "bfloat16", 316)
    assert [str(each.layers) for each in assigned] == ["0:6"]


@pytest.mark.parametrize("wish", [ANY, Wish(model_id=MODEL, layers=LayerRange(0, 2))])
def test_a_precision_that_is_not_known_is_refused_before_anything_is_assigned(door: Door, wish: Wish) -> None:
    """It used to be taken for the checkpoint's own."""
    with pytest.raises(InvalidRequestError, match=r"precision 'bfloat16\+int3' is not known here"):
        door.registrar.joined("a", [wish], "bfloat16+int3", 10_000)
    assert door.join("b", ANY) == [(MODEL, "0:6")]


def test_a_node_that_joins_a_swarm_that_serves_takes_what_gains_most(door: Door) -> None:
    """Every layer has one holder; the second half's is ten times slower."""
    for name, found in (
        ("x", span(0, 3, manifest_digest=door.digest)),
        ("y", span(3, 6, manifest_digest=door.digest, step_time_s=0.1)),
    ):
        door.swarm.heard(node(name, found), 0.0)
    assert door.join("a", ANY, memory_bytes=316) == [(MODEL, "3:6")]


def test_layers_that_were_asked_for_may_take_more_than_their_share(tokenizer: Tokenizer) -> None:
    """Of 850 bytes 632 go to the pinned model; the other one gets what is left, not half."""
    door = Door(tokenizer, MODEL, OTHER)
    wishes = [Wish(model_id=MODEL, layers=LayerRange(0, 6)), Wish(model_id=OTHER, layers=None)]
    assert door.join("a", *wishes, memory_bytes=850) == [(MODEL, "0:6"), (OTHER, "0:2")]


def test_members_are_known_until_they_leave(door: Door) -> None:
    door.join("a", ANY)
    assert list(door.registrar.members) == ["a"]
    assert door.registrar.members["a"].may_move(MODEL)
    door.join("b", Wish(model_id=MODEL, layers=LayerRange(0, 2)))
    assert not door.registrar.members["b"].may_move(MODEL)
    moved = door.registrar.ordered("a", MODEL, LayerRange(2, 4))
    assert (moved.model.model_id, moved.layers) == (MODEL, LayerRange(2, 4))
    door.registrar.left("a")
    assert list(door.registrar.members) == ["b"]
