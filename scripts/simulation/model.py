"""A model whose arithmetic is hashing: what every layer gives depends on all rows before, in their order.

Layer l keeps, for each row, c[l][p] = hash(l, c[l][p-1], its input), and gives it on. So a row that is missing, comes
twice or out of order changes every later token, whichever spans the layers are cut into. A token is a pure function of
(seed, position, what the last layer gave).
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

from scripts.simulation.scenario import ModelConfig

from osai.coordinator.catalog import ServedModel
from osai.coordinator.text import Tokenizer
from osai.core.layers import LayerRange
from osai.core.manifest import DEFAULT_CHUNK_BYTES, FileEntry, Manifest, TensorEntry, num_chunks, parse, unsigned
from osai.core.model import ModelFacts

MODEL = "simulated/model"
DTYPE = "float32"
MAX_KV_NUMBERS = 16


class NoTokenizer(Tokenizer):
    """Token ids have no text here."""

    def __init__(self) -> None:
        self.special_ids = frozenset()

    def token_text(self, token_id: int) -> str:  # noqa: ARG002
        """Nothing."""
        return ""

    def decode(self, token_ids: object) -> str:  # noqa: ARG002
        """Nothing."""
        return ""


def draw(seed: int, position: int, hidden: int, vocab_size: int) -> int:
    """The token that the tail draws."""
    return hash((seed, position, hidden)) % vocab_size


class Layers:
    """The KV of one session on one span."""

    def __init__(self, layers: LayerRange) -> None:
        self._chains: list[tuple[int, list[int]]] = [(layer, []) for layer in range(layers.start, layers.end)]

    @property
    def num_rows(self) -> int:
        """Rows that are there."""
        return len(self._chains[0][1])

    def run(self, inputs: list[int]) -> list[int]:
        """Rows through the span."""
        for layer, chain in self._chains:
            last = chain[-1] if chain else -1
            outputs = []
            for value in inputs:
                last = hash((layer, last, value))
                outputs.append(last)
            chain.extend(outputs)
            inputs = outputs
        return inputs

    def cut(self, position: int) -> None:
        """Forget rows from `position` on."""
        for _, chain in self._chains:
            del chain[position:]


@dataclass(frozen=True)
class SimulatedModel:
    """The model of one run."""

    config: ModelConfig

    def tokens(self, prompt: tuple[int, ...], seed: int, count: int) -> tuple[int, ...]:
        """What an undisturbed run gives."""
        layers = Layers(LayerRange(0, self.config.num_layers))
        given: list[int] = []
        rows = list(prompt)
        for index in range(count):
            token = draw(seed, len(prompt) + index, layers.run(rows)[-1], self.config.vocab_size)
            given.append(token)
            rows = [token]
        return tuple(given)

    @property
    def layer_bytes(self) -> int:
        """What a layer takes on a node: weights, and KV of one full context."""
        return self.config.layer_bytes + MAX_KV_NUMBERS * 4 * self.config.max_context

    @property
    def outer_bytes(self) -> int:
        """What the embedding takes, and the head again."""
        return self.config.layer_bytes // 4

    def span_bytes(self, layers: LayerRange) -> int:
        """What a span takes."""
        num_outer = (layers.start == 0) + (layers.end == self.config.num_layers)
        return len(layers) * self.layer_bytes + num_outer * self.outer_bytes

    @cached_property
    def served(self) -> ServedModel:
        """As a coordinator has it."""
        data = unsigned(self._manifest())
        facts = ModelFacts(
            architecture="Simulated",
            num_layers=self.config.num_layers,
            hidden_size=2,
            vocab_size=self.config.vocab_size,
            max_context=self.config.max_context,
            eos_token_ids=(),
            max_kv_numbers=MAX_KV_NUMBERS,
            dtype=DTYPE,
        )
        return ServedModel(
            manifest=parse(data), manifest_file=data, signed=True, facts=facts, tokenizer=NoTokenizer(), source=""
        )

    def _manifest(self) -> Manifest:
        digest, at, tensors = blake2b(digest_size=32).hexdigest(), 0, []
        parts: list[tuple[str, int | None, int]] = [
            (f"model.layers.{layer}.w", layer, self.config.layer_bytes) for layer in range(self.config.num_layers)
        ]
        parts.append(("model.embed_tokens.weight", None, self.outer_bytes))
        for name, layer, size in parts:
            tensors.append(
                TensorEntry(
                    name=name,
                    file="model.safetensors",
                    begin=at,
                    end=at + size,
                    dtype="F32",
                    shape=(size // 4,),
                    layer=layer,
                    chunks=(digest,) * num_chunks(size, DEFAULT_CHUNK_BYTES),
                )
            )
            at += size
        return Manifest(
            model_id=MODEL,
            version=1,
            created_s=1_700_000_000,
            licence="mit",
            files=(FileEntry(path="config.json", size_bytes=2, chunks=(digest,)),),
            tensors=tuple(tensors),
        )
