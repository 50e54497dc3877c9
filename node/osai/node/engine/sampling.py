"""Draws tokens from logits, as a pure function of seed, position, logits and history.

The draw is a race (the exponential form of the Gumbel-max trick: Maddison, Tarlow and Minka, "A* Sampling", 2014): each
token runs for a time drawn from an exponential distribution, divided by its probability, and the first to arrive is it.
Times come from seed and position. Logits that differ by rounding (another kind of processor, another batch) change the
winner only where two arrive together, about once in so many tokens as the rounding is small. A draw that inverts the
cumulated distribution is another one wherever one of its bounds moves past the number drawn, and there are as many
bounds as tokens: of 6,000 draws from 128,000 tokens, at logits that differ by 1e-6, 22 changed; here none.

Groups of tokens race first, then the winner's members, so that a draw needs times for the square root of all.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

from osai.core.errors import InternalError, OsaiError
from osai.core.sampling import SamplingParams

_UNUSED_BITS = np.uint64(64 - 53)  # of a word, of which a float64 holds 53 bits
_GROUP = 256  # tokens: about the square root of a vocabulary
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


def times(seed: int, position: int, count: int) -> npt.NDArray[np.float64]:
    """Exponentially distributed numbers, greater than 0, that depend on nothing but seed and position; [count].

    Philox's words are the same in every release and on every machine (NEP 19); numpy's own exponentials need not be.
    """
    key = np.array([seed, position], dtype=np.uint64)
    words = np.random.Philox(key=key).random_raw(count)
    uniform = ((words >> _UNUSED_BITS).astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1)
    return -np.log(uniform)


def _token(logits: torch.Tensor, draw: Draw, likeliest: int) -> int | None:
    """One token of logits [vocab_size], of which the likeliest is known; None where none may be drawn."""
    if draw.params.greedy and not draw.changes_logits and _is_allowed(likeliest, draw.allowed):
        return likeliest
    if draw.allowed is None or draw.changes_logits:
        return _draw(_penalize(_allow(_bias(logits.double(), draw.params), draw.allowed), draw), draw)
    ids = draw.allowed[: len(logits)].nonzero().squeeze(1).to(logits.device)
    return _draw(logits[ids].double(), draw, ids) if len(ids) else None


def _is_allowed(token_id: int, allowed: torch.Tensor | None) -> bool:
    return allowed is None or (token_id < len(allowed) and bool(allowed[token_id]))


def _draw(logits: torch.Tensor, draw: Draw, ids: torch.Tensor | None = None) -> int | None:
    """One token of float64 logits [num_tokens], of all tokens or of `ids`; None where none may be drawn."""
    params, likeliest = draw.params, int(logits.argmax())
    if logits[likeliest] == -torch.inf:
        return None
    if params.greedy:
        return likeliest if ids is None else int(ids[likeliest])
    probs = kept_probs(logits / params.temperature, params)
    if ids is not None:  # a token's time is its own, whatever others are allowed
        probs = probs.new_zeros(int(ids[-1]) + 1).index_copy_(0, ids, probs)
    return _race(probs, params.seed, draw.position)


def _race(probs: torch.Tensor, seed: int, position: int) -> int:
    """The token that arrives first, of probabilities [num_tokens] that need not add up to 1."""
    groups = pad(probs, (0, -len(probs) % _GROUP)).view(-1, _GROUP)  # [num_groups, _GROUP]
    masses = groups.sum(1).cpu().numpy()
    drawn = times(seed, position, _GROUP + len(masses))
    group = int((masses / drawn[_GROUP:]).argmax())
    return group * _GROUP + int((groups[group].cpu().numpy() / drawn[:_GROUP]).argmax())


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
