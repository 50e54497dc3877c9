"""The grammar of one session: which tokens may come next, worked out beside the steps."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future

import numpy as np
import torch
from llguidance import LLMatcher

from osai.core.errors import DeadlineExceededError, InternalError, InvalidRequestError
from osai.core.vocabulary import check

MASK_S = 10.0  # for one mask, which takes 20 ms at most: all workers have hung then


class Constraint:
    """Follows one session's tokens through its grammar.

    Made off the loop; then the engine thread's alone. A mask is made by a worker from the moment on at which the tokens
    before it are known, so that a step seldom waits for it.

    Args:
        matcher: of the grammar, at its beginning.
        kind: of the grammar, for messages.
        executor: runs what makes masks.
        unwanted: tokens that end a text, but not this session: they are masked, where anything else may come.
        generated: the session's tokens so far.

    Attributes:
        has_ended: the sentence is complete, and nothing can be added to it.

    Raises:
        InvalidRequestError: if those are no beginning of a sentence.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        kind: str,
        executor: Executor,
        unwanted: Sequence[int] = (),
        generated: Sequence[int] = (),
    ) -> None:
        self._matcher, self._kind, self._executor = matcher, kind, executor
        self._unwanted = list(unwanted)
        self._mask: Future[torch.Tensor] | None = None  # for the token after those so far
        self._num_tokens = matcher.try_consume_tokens(list(generated))
        if self._num_tokens < len(generated):
            raise InvalidRequestError(
                f"token {self._num_tokens} of those generated so far does not fit the {kind}: the session can't go on"
            )
        self.has_ended = matcher.is_stopped()  # kept, as the matcher may be a worker's when it is asked for

    def prepare(self, index: int) -> "Future[torch.Tensor]":
        """Have the mask for the generated token of that index made, unless it is already; what came after is cut.

        Returns:
            The mask, or an InvalidRequestError that quotes the library: the grammar is too big or too slow.

        Raises:
            InvalidRequestError: if tokens before it are missing.
        """
        if index > self._num_tokens:
            raise InvalidRequestError(
                f"token {index} needs the {index} before it for its {self._kind}, and {self._num_tokens} are known"
            )
        if index < self._num_tokens:
            self._cut(index)
        if self._mask is None:
            self._mask = self._executor.submit(self._make_mask)
        return self._mask

    def allowed(self, index: int) -> torch.Tensor:
        """Which tokens the one of that index may be: bool [num_tokens], False past its end. Waits for the worker.

        Raises:
            InternalError: if the grammar turns out to be too big or too slow, wherever it is tried; it quotes the
                library.
            DeadlineExceededError: if no worker makes it in time.
            InvalidRequestError: as of `prepare`.
        """
        return self._result(self.prepare(index))

    def note(self, index: int, token_id: int) -> None:
        """The token of that index has been drawn, by the mask of `allowed`.

        Raises:
            InternalError: if it does not fit, or the grammar turns out to be too big; it quotes the library.
            OsaiError: as of `allowed`.
        """
        self._result(self.prepare(index))  # the matcher is the worker's until then
        self._mask = None
        if not self._matcher.consume_token(token_id):
            self._refuse()
        self._num_tokens += 1
        self.has_ended = self._matcher.is_stopped()
        if not self.has_ended:
            self.prepare(index + 1)

    def _cut(self, index: int) -> None:
        if self._mask is not None:
            self._result(self._mask)
            self._mask = None
        if not self._matcher.rollback(self._num_tokens - index):
            reason = self._matcher.get_error()
            raise InternalError(f"the {self._kind} can't be followed from token {index} on: {reason}")
        self._num_tokens = index
        self.has_ended = self._matcher.is_stopped()

    def _result(self, mask: "Future[torch.Tensor]") -> torch.Tensor:
        try:
            return mask.result(MASK_S)
        except TimeoutError as e:
            raise DeadlineExceededError(f"no mask of the {self._kind} was made within {MASK_S:g} s") from e
        except InvalidRequestError as e:
            raise InternalError(e.message) from e

    def _refuse(self) -> None:
        try:
            check(self._matcher, self._kind)
        except InvalidRequestError as e:  # the coordinator is to give up, not to look for another tail
            raise InternalError(e.message) from e
        raise InternalError(f"the {self._kind} could not be followed further")

    def _make_mask(self) -> torch.Tensor:
        """In a worker."""
        words = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        check(self._matcher, self._kind)
        bits = np.unpackbits(words, bitorder="little").view(np.bool_)
        if self._unwanted:
            without = bits.copy()
            without[[token for token in self._unwanted if token < len(without)]] = False
            bits = without if without.any() else bits
        return torch.from_numpy(bits)
