"""Grammars, biases and vectors on a node's edge: what is taken of a coordinator, and what is refused."""

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from node.fake_engine import DIGEST, MIDDLE, MODEL, TAIL, FakeEngine, open_session
from osai.core.errors import InvalidRequestError, OsaiError, WeightsError, from_proto
from osai.core.frames import FrameShape
from osai.core.layers import LayerRange
from osai.core.vocabulary import Vocabulary
from osai.node.engine.api import Rows, Sampled, StepOutput
from osai.node.grammars import MakeVocabulary
from osai.node.ring import Ring, ServedSpan
from osai.node.stages.stage import HostedSpan, Peer
from osai.node.wire import read_open, write_token
from osai.proto import common_pb2, edge_pb2

HEAD_PEER = Peer(node_id="head", address="head:1")
A_TO_Z = common_pb2.Grammar(regex="[a-z]{2}")
EOS = 0


def vocabulary() -> Vocabulary:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=260, special_tokens=["</s>"], show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(["ab"], trainer)
    return Vocabulary(tokenizer.to_str().encode(), [EOS])


class Edge:
    """A ring around a fake engine, and a coordinator that has dialled in."""

    def __init__(self, ring: Ring, engine: FakeEngine) -> None:
        self.ring, self.engine = ring, engine
        self.owner, self._outbox = ring.attach("coordinator")

    async def open(self, message: edge_pb2.OpenSession) -> edge_pb2.LinkMessage:
        """What it is told."""
        await self.ring.receive(self.owner, edge_pb2.LinkMessage(open=message))
        return await self._outbox.get()

    async def refusal(self, message: edge_pb2.OpenSession) -> OsaiError:
        answer = await self.open(message)
        assert answer.WhichOneof("kind") == "failed"
        assert not self.engine.sessions
        return from_proto(answer.failed.error)


def edge(maker: MakeVocabulary | None = vocabulary, layers: LayerRange = TAIL) -> tuple[Ring, FakeEngine]:
    engines: list[FakeEngine] = []

    def make(on_output: Callable[[StepOutput], None]) -> FakeEngine:
        engines.append(FakeEngine(on_output))
        return engines[0]

    ring = Ring(Peer(node_id="tail", address="tail:1"), make)
    hosted = HostedSpan(key=MODEL, layers=layers, num_layers=6, manifest_digest=DIGEST)
    shape = FrameShape(dtype=common_pb2.DTYPE_FLOAT32, hidden_size=4)
    ring.serve(ServedSpan(hosted=hosted, frames=shape, vocabulary=maker))
    return ring, engines[0]


def with_grammar(grammar: common_pb2.Grammar = A_TO_Z, *generated: int, **fields: object) -> edge_pb2.OpenSession:
    known = [7, 8, 9, *generated]
    message = open_session(1, TAIL, HEAD_PEER, prompt_token_ids=known, **fields)
    message.num_known_tokens = len(known)
    message.grammar.CopyFrom(grammar)
    return message


async def test_a_tail_follows_the_grammar_from_the_tokens_that_are_known() -> None:
    made = vocabulary()
    letters = {i for i in range(260) if made.matcher(read_open(with_grammar()).grammar).validate_tokens([i])}  # type: ignore[arg-type]
    ring, engine = edge()
    async with ring:
        it = Edge(ring, engine)
        assert (await it.open(with_grammar())).WhichOneof("kind") == "opened"
        constraint = engine.sessions[1].constraint
        assert constraint is not None
        assert {int(i) for i in constraint.allowed(0).nonzero()} == letters
        one = min(letters)
        await it.ring.receive(it.owner, edge_pb2.LinkMessage(close=edge_pb2.CloseSession(session=1)))
        await it.open(with_grammar(A_TO_Z, one, epoch=2))
        resumed = engine.sessions[1].constraint
        assert resumed is not None
        resumed.note(1, one)
        assert resumed.has_ended


async def test_the_tokenizer_is_read_once_and_when_the_first_grammar_comes() -> None:
    made: list[Vocabulary] = []

    def counted() -> Vocabulary:
        made.append(vocabulary())
        return made[-1]

    ring, engine = edge(counted)
    async with ring:
        it = Edge(ring, engine)
        await it.open(open_session(9, TAIL, HEAD_PEER))
        assert made == []
        for session in (1, 2):
            message = with_grammar()
            message.session = session
            await it.open(message)
        assert len(made) == 1
        ring.withdraw(MODEL)
        assert isinstance(await Edge(ring, FakeEngine(lambda _: None)).refusal(with_grammar()), InvalidRequestError)


async def test_what_can_not_be_enforced_is_refused_with_the_reason() -> None:
    def broken() -> Vocabulary:
        return Vocabulary(b"{}", [EOS])

    unknown = with_grammar()
    del unknown.prompt_token_ids[:]
    cases: list[tuple[MakeVocabulary | None, edge_pb2.OpenSession, type[OsaiError], str]] = [
        (vocabulary, with_grammar(common_pb2.Grammar(regex="(a")), InvalidRequestError, "unclosed group"),
        (vocabulary, with_grammar(A_TO_Z, EOS), InvalidRequestError, "token 0 of those generated so far"),
        (vocabulary, with_grammar(common_pb2.Grammar()), InvalidRequestError, "of no kind that is known"),
        (vocabulary, unknown, InvalidRequestError, "a grammar needs the 3 tokens that are known"),
        (None, with_grammar(), InvalidRequestError, "is not the tail, or has no tokenizer"),
        (broken, with_grammar(), WeightsError, "no grammar can be used with this tokenizer"),
    ]
    for maker, message, kind, reason in cases:
        ring, engine = edge(maker)
        async with ring:
            error = await Edge(ring, engine).refusal(message)
            assert isinstance(error, kind), error
            assert reason in error.message


async def test_a_standby_follows_no_grammar_it_draws_nothing() -> None:
    ring, engine = edge()
    async with ring:
        await Edge(ring, engine).open(with_grammar(follow=True))
        assert engine.sessions[1].constraint is None


async def test_pooling_is_the_tails() -> None:
    ring, engine = edge()
    async with ring:
        await Edge(ring, engine).open(open_session(1, TAIL, HEAD_PEER, pooling=common_pb2.POOLING_MEAN))
        assert engine.sessions[1].pooling == "mean"
    ring, engine = edge(layers=MIDDLE)
    async with ring:
        await Edge(ring, engine).open(open_session(1, MIDDLE, HEAD_PEER, pooling=common_pb2.POOLING_MEAN))
        assert engine.sessions[1].pooling is None


async def test_a_vector_goes_to_the_coordinator_and_nothing_to_the_head() -> None:
    ring, engine = edge()
    async with ring:
        it = Edge(ring, engine)
        await it.open(open_session(1, TAIL, HEAD_PEER, pooling=common_pb2.POOLING_LAST))
        data = b"\x00\x00\x80?" * 4
        vector = Sampled(session=1, epoch=1, index=0, token_id=0, finish="stop", embedding=data)
        engine.step(Rows(session=1, epoch=1, position=0, count=3), sampled=(vector,))
        (token,) = (await it._outbox.get()).tokens.tokens
    assert (token.embedding, token.finish, token.HasField("token")) == (data, common_pb2.FINISH_REASON_STOP, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"pooling": 77},
        {"pooling": common_pb2.POOLING_MEAN, "resume": True},
        {"pooling": common_pb2.POOLING_MEAN, "grammar": A_TO_Z},
        {"sampling": common_pb2.SamplingParams(top_p=1, repetition_penalty=1, logit_bias={5: 101})},
        {
            "sampling": common_pb2.SamplingParams(
                top_p=1, repetition_penalty=1, logit_bias=dict.fromkeys(range(1025), 1)
            )
        },
        {"grammar": common_pb2.Grammar(lark="x" * (64 * 1024 + 1))},
    ],
)
def test_what_is_out_of_bounds_is_refused_before_anything_is_done(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        read_open(open_session(1, TAIL, HEAD_PEER, **fields))


def test_a_bias_arrives_as_it_was_sent() -> None:
    bias = {5: -100.0, 7: 0.5, 0: 3.25}
    sampling = common_pb2.SamplingParams(top_p=1, repetition_penalty=1, logit_bias=bias)
    request = read_open(open_session(1, TAIL, HEAD_PEER, sampling=sampling))
    assert request.sampling.logit_bias == ((0, 3.25), (5, -100.0), (7, 0.5))
    plain = write_token(Sampled(session=1, epoch=1, index=0, token_id=5))
    assert (plain.embedding, plain.token.token_id) == (b"", 5)
