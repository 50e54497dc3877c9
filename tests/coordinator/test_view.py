"""What front doors show of the swarm."""

from coordinator.builders import MODEL, model, node, span
from osai.coordinator.api import ModelView, SpanView
from osai.coordinator.text import Tokenizer
from osai.coordinator.view import view_models, view_node
from osai.core.layers import LayerRange


def test_a_model_counts_ready_replicas_of_its_own_weights(tokenizer: Tokenizer) -> None:
    served = model(tokenizer, MODEL)
    digest = served.manifest.digest
    nodes = (
        node("a", span(0, 4, manifest_digest=digest)),
        node("b", span(4, 6, manifest_digest=digest)),
        node("c", span(0, 6, manifest_digest=b"x" * 32)),
        node("d", span(0, 6, manifest_digest=digest, state="loading")),
        node("e", span(0, 6, manifest_digest=digest), state="draining"),
    )
    (view,) = view_models([served], nodes, {MODEL: 3}.__getitem__)
    assert view == ModelView(
        model_id=MODEL,
        num_layers=6,
        max_context=64,
        signed=True,
        licence="mit",
        replicas=(1,) * 6,
        created_s=1_700_000_000,
        num_queued=3,
    )
    assert view.covered
    (gapped,) = view_models([served], nodes[:1], lambda _: 0)
    assert (gapped.replicas, gapped.covered) == ((1, 1, 1, 1, 0, 0), False)


def test_a_model_whose_spans_do_not_join_is_not_covered(tokenizer: Tokenizer) -> None:
    """Every layer may have a node, and yet no session can run."""
    served = model(tokenizer, MODEL)
    digest = served.manifest.digest
    overlapping = (node("a", span(0, 4, manifest_digest=digest)), node("b", span(2, 6, manifest_digest=digest)))
    (view,) = view_models([served], overlapping, lambda _: 0)
    assert (view.replicas, view.covered) == ((1, 1, 2, 2, 1, 1), False)
    other = node("c", span(4, 6, manifest_digest=digest, dtype="bfloat16"))
    (view,) = view_models([served], (overlapping[0], other), lambda _: 0)
    assert (view.replicas, view.covered) == ((1,) * 6, False)


def test_a_node_is_shown_as_it_says() -> None:
    failed = span(0, 2, state="failed", failure="no such file", verified=False)
    member = node("a", failed, device="cuda:0", num_sessions=3, state="joining")
    view = view_node(member, now_s=62.5)
    assert view.spans == (
        SpanView(
            model_id=MODEL,
            span=LayerRange(0, 2),
            dtype="float32",
            state="failed",
            verified=False,
            failure="no such file",
        ),
    )
    assert (view.node_id, view.name, view.software, view.device) == ("a", "the a", "osai/0.1.0", "cuda:0")
    assert (view.memory_bytes, view.state, view.num_sessions, view.uptime_s) == (10**9, "joining", 3, 12.5)


def test_a_node_whose_clock_is_ahead_has_no_negative_uptime() -> None:
    assert view_node(node("a"), now_s=10.0).uptime_s == 0.0
