"""Whether a grammar can be used with a model: found out before a session is opened for it."""

import threading
from collections.abc import Sequence
from pathlib import Path

from osai.core.errors import WeightsError
from osai.core.grammar import Grammar
from osai.core.vocabulary import Vocabulary


class GrammarCheck:
    """Compiles grammars for one model, as its tails will. Not for the loop: it may take a second.

    Args:
        tokenizer_file: the model's tokenizer.json, verified; read when the first grammar comes.
        eos_token_ids: the model's.
    """

    def __init__(self, tokenizer_file: Path, eos_token_ids: Sequence[int]) -> None:
        self._path = tokenizer_file
        self._eos_token_ids = eos_token_ids
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None

    def __call__(self, grammar: Grammar) -> None:
        """Check a grammar.

        Raises:
            InvalidRequestError: if it can't be used; it quotes llguidance.
            WeightsError: if the tokenizer can't be.
        """
        self._made().matcher(grammar)

    def _made(self) -> Vocabulary:
        with self._lock:
            if self._vocabulary is None:
                try:
                    data = self._path.read_bytes()
                except OSError as e:
                    raise WeightsError(f"{self._path} can't be read: {e.strerror}", subject=self._path.name) from e
                self._vocabulary = Vocabulary(data, self._eos_token_ids)
            return self._vocabulary
