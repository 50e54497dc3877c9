"""A model's tokens on the node of its last layer, which holds texts to grammars."""

import json
import logging
import zlib
from collections.abc import Sequence

from osai.core.errors import WeightsError
from osai.core.layers import LayerRange
from osai.core.model import ModelFacts
from osai.core.vocabulary import Vocabulary
from osai.node.span_plan import SpanPlan
from osai.node.weights.verified import VerifiedCheckpoint

log = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"
GENERATION_FILE = "generation_config.json"


class TokenizerFile:
    """A verified tokenizer.json, kept small until the first grammar comes, if one ever does.

    Args:
        data: of the file.
        eos_token_ids: the model's.
    """

    def __init__(self, data: bytes, eos_token_ids: Sequence[int]) -> None:
        self._packed = zlib.compress(data, 1)
        self._eos_token_ids = tuple(eos_token_ids)

    def __call__(self) -> Vocabulary:
        """The model's tokens; it takes a second for a large tokenizer.

        Raises:
            WeightsError: if the file can't be used.
        """
        return Vocabulary(zlib.decompress(self._packed), self._eos_token_ids)


def vocabulary_files(layers: LayerRange, num_layers: int) -> tuple[str, ...]:
    """What `read_vocabulary` reads, if the checkpoint has it."""
    return (GENERATION_FILE, TOKENIZER_FILE) if layers.end == num_layers else ()


def read_vocabulary(plan: SpanPlan, checkpoint: VerifiedCheckpoint) -> TokenizerFile | None:
    """What a span needs for grammars: while its files can be had. None where it is no tail, or has no tokenizer."""
    if plan.layers.end < plan.facts.num_layers or TOKENIZER_FILE not in checkpoint.files:
        return None
    try:
        generation = json.loads(checkpoint.file(GENERATION_FILE)) if GENERATION_FILE in checkpoint.files else None
        facts = ModelFacts.from_config(plan.config, generation if isinstance(generation, dict) else None)
        return TokenizerFile(checkpoint.file(TOKENIZER_FILE), facts.eos_token_ids)
    except (WeightsError, ValueError, RecursionError) as e:
        log.warning("%s is served without grammars: %s", plan.model_id, e)
        return None
