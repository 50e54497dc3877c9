"""Draws tokens from logits, as a pure function of seed, position, logits and history.

The draw inverts the distribution over the kept tokens in the order of the vocabulary, with one uniform number hashed
from seed and position. Logits that differ by rounding (another batch, another node) move the bounds of the intervals by
as little, so the same session gets the same tokens wherever its tail runs.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch.nn.functional import pad

from osai.core.errors import InternalError, OsaiError
from osai.core.sampling import SamplingParams

_FRACTION_BITS = 53  # of a float64
_FRACTIONS = 1 << _FRACTION_BITS
_NUM_TOP = (256, 8192)  # how many of the likeliest tokens top_p looks at before it sorts the whole vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What decides one token, besides its logits.

    Attributes:
        params: the session's.
        position: of the token to be drawn.
        prompt: the prompt's tokens, where a penalty needs them.
        generated: the tokens generated so far, where a penalty needs them.
        allowed: bool [num_tokens], which tokens may be drawn; ids past its end may not. None: all may.
    """

    params: SamplingParams
    position: int
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    allowed: torch.Tensor | None = None

    @property
    def changes_logits(self) -> bool:
        """Whether logits are not taken as they are."""
        return self.params.needs_history or bool(self.params.logit_bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One token.

    Attributes:
        token_id: the token.
        logprob: natural logarithm of its probability, of the logits as they came; None unless asked for.
        top: (token id, logprob) of the likeliest tokens, likeliest first.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def sample(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Drawn | OsaiError]:
    """One token of each row.

    Args:
        logits: [len(draws), vocab_size], any float dtype.
        draws: one a row.

    Returns:
        For each row its token, or an InternalError where the logits are NaN, infinite, or all -inf, or those of all
        allowed tokens are.
    """
    if not draws:
        return []
    largest, likeliest = logits.max(dim=1)  # ties: the lowest id; NaN is larger than all
    finite, token_ids = largest.isfinite().tolist(), likeliest.tolist()
    results: list[Drawn | OsaiError] = []
    for row, draw in enumerate(draws):
        if not finite[row]:
            results.append(InternalError(f"the logits of position {draw.position} are not finite"))
            continue
        token_id = _token(logits[row], draw, token_ids[row])
        if token_id is None:
            results.append(InternalError(f"no token may be drawn at position {draw.position}"))
            continue
        results.append(_with_logprobs(token_id, logits[row], draw.params.num_logprobs))
    return results


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = blake2b(seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=8, person=b"osai.sample")
    return (int.from_bytes(digest.digest(), "little") >> (64 - _FRACTION_BITS)) / _FRACTIONS


def _token(logits: torch.Tensor, draw: Draw, likeliest: int) -> int | None:
    """One token of logits [vocab_size], of which the likeliest is known; None where none may be drawn."""
    if draw.params.greedy and not draw.changes_logits and _is_allowed(likeliest, draw.allowed):
        return likeliest
    if draw.allowed is None or draw.changes_logits:
        return _draw(logits.double(), draw)
    ids = draw.allowed[: len(logits)].nonzero().squeeze(1).to(logits.device)  # rising: the order of the draw stays
    place = _draw(logits[ids].double(), replace(draw, allowed=None)) if len(ids) else None
    return None if place is None else int(ids[place])


def _is_allowed(token_id: int, allowed: torch.Tensor | None) -> bool:
    return allowed is None or (token_id < len(allowed) and bool(allowed[token_id]))


def _draw(logits: torch.Tensor, draw: Draw) -> int | None:
    """One token of float64 logits [vocab_size]; None where none may be drawn."""
    params = draw.params
    logits = _penalize(_allow(_bias(logits, params), draw.allowed), draw)
    likeliest = int(logits.argmax())
    if logits[likeliest] == -torch.inf:
        return None
    if params.greedy:
        return likeliest
    probs = kept_probs(logits / params.temperature, params)
    bounds = probs.cumsum(0)
    target = uniform(params.seed, draw.position) * float(bounds[-1])
    token_id = int(torch.searchsorted(bounds, target, right=True))
    return token_id if token_id < len(probs) else int(probs.nonzero()[-1])  # rounded up to the very end


def _bias(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Logits with the session's own bias added."""
    if not params.logit_bias:
        return logits
    ids = torch.tensor([token_id for token_id, _ in params.logit_bias], device=logits.device)
    biases = torch.tensor([bias for _, bias in params.logit_bias], dtype=logits.dtype, device=logits.device)
    return logits.index_add(0, ids, biases)


def _allow(logits: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    """-inf for every token that is not allowed."""
    if allowed is None:
        return logits
    allowed = allowed[: len(logits)].to(logits.device)
    masked = torch.where(allowed, logits[: len(allowed)], -torch.inf)
    return pad(masked, (0, len(logits) - len(masked)), value=-torch.inf)


def _penalize(logits: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Repetition penalty over prompt and output, then presence and frequency penalties over the output."""
    params = draw.params
    if not params.needs_history:
        return logits
    logits = logits.clone()
    if seen := sorted({*draw.prompt, *draw.generated}):
        ids = torch.tensor(seen, device=logits.device)
        values = logits[ids]
        logits[ids] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if counts := Counter(draw.generated):
        ids = torch.tensor(list(counts), device=logits.device)
        times = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= params.presence_penalty + params.frequency_penalty * times
    return logits


def kept_probs(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Probabilities after top_k, top_p and min_p, each of what the one before it kept; 0 for the rest, not normalised.

    Args:
        logits: float64 [vocab_size], after temperature.
        params: the filters.

    Returns:
        float64 [vocab_size].
    """
    logits = logits - logits.max()
    if 0 < params.top_k < len(logits):
        logits = _keep_likeliest(logits, params.top_k)
    if params.top_p < 1:
        logits = _keep_likeliest(logits, _num_in_nucleus(logits.exp(), params.top_p))
    probs = logits.exp()  # the likeliest token's is 1
    return torch.where(probs >= params.min_p, probs, 0.0) if params.min_p > 0 else probs


def _keep_likeliest(logits: torch.Tensor, count: int) -> torch.Tensor:
    """Rule out all but the `count` likeliest; among equal ones the lowest ids stay."""
    least = logits.topk(count).values[-1]
    kept = logits > least
    ties = (logits == least).nonzero().squeeze(1)
    kept[ties[: count - int(kept.sum())]] = True
    return torch.where(kept, logits, -torch.inf)


def _num_in_nucleus(probs: torch.Tensor, top_p: float) -> int:
    """Size of the smallest set of likeliest tokens that has the share `top_p` of all."""
    target = top_p * float(probs.sum())
    for count in (*_NUM_TOP, len(probs)):
        sums = probs.topk(min(count, len(probs))).values.cumsum(0)
        if sums[-1] >= target:
            return int(torch.searchsorted(sums, target)) + 1
    return len(probs)  # the sums, added in another order, round to less than the share


def _with_logprobs(token_id: int, logits: torch.Tensor, num_logprobs: int | None) -> Drawn:
    if num_logprobs is None:
        return Drawn(token_id=token_id)
    logprobs = logits.float().log_softmax(0)
    top: list[tuple[int, float]] = []
    if num_logprobs:
        least = logprobs.topk(min(num_logprobs, len(logprobs))).values[-1]
        ids = ((logprobs >= least) & (logprobs > -torch.inf)).nonzero().squeeze(1)  # rising
        values, order = logprobs[ids].sort(descending=True, stable=True)
        top = list(zip(ids[order].tolist(), values.tolist(), strict=True))[:num_logprobs]
    return Drawn(token_id=token_id, logprob=float(logprobs[token_id]), top=tuple(top))
