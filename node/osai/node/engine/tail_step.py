"""What the tail makes of one step: tokens drawn, vectors of prompts. Only the engine thread calls it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from osai.core.errors import OsaiError
from osai.node.engine.api import Sampled
from osai.node.engine.sampling import Draw, Drawn, sample
from osai.node.engine.session import StepPart, TailState


@dataclass(slots=True)
class TailStep:
    """What is wanted of a step, worked out before it runs: masks of grammars are made meanwhile.

    Attributes:
        draws: by place in the step's parts: the tail as the step found it (the loop may put another in its place), and
            what decides its token.
        logits_of: the packed rows whose logits these need, in the same order.
        pooled: by place in the step's parts: whose hidden states are gathered.
        failed: by place in the step's parts: who gets nothing, and why.
    """

    draws: dict[int, tuple[TailState, Draw]] = field(default_factory=dict)
    logits_of: list[int] = field(default_factory=list)
    pooled: dict[int, TailState] = field(default_factory=dict)
    failed: dict[int, OsaiError] = field(default_factory=dict)


def plan_tail(parts: Sequence[StepPart]) -> TailStep:
    """What is wanted of a step of these parts; nothing where the span is no tail."""
    step, row = TailStep(), 0
    for i, part in enumerate(parts):
        rows, tail = part.chunk.rows, part.session.tail
        row += rows.count
        spec, end = part.session.spec, rows.position + rows.count  # after the tail: Engine.resume puts it first
        if tail is None:
            continue
        if tail.pool is not None:
            step.pooled[i] = tail
        elif end >= spec.num_known_tokens and part.chunk.is_newest:
            try:
                step.draws[i] = tail, tail.draw(end - spec.num_prompt_tokens, end)
                step.logits_of.append(row - 1)
            except OsaiError as e:
                step.failed[i] = e
    return step


def draw_tokens(parts: Sequence[StepPart], step: TailStep, logits: torch.Tensor) -> dict[int, Sampled]:
    """Draw from logits [len(step.draws), vocab_size]; notes in `step.failed` who can't."""
    sampled: dict[int, Sampled] = {}
    masked = [_masked(i, parts[i], step) for i in step.draws]
    for (i, (tail, draw)), drawn in zip(step.draws.items(), sample(logits, masked), strict=True):
        if i in step.failed:
            continue
        if isinstance(drawn, OsaiError):
            step.failed[i] = drawn
            continue
        try:
            sampled[i] = _noted(parts[i], tail, draw, drawn)
        except OsaiError as e:
            step.failed[i] = e
    return sampled


def _masked(place: int, part: StepPart, step: TailStep) -> Draw:
    """What decides a token, with the mask of its grammar; where there is none, that is noted in `step.failed`."""
    tail, draw = step.draws[place]
    if tail.constraint is None:
        return draw
    index = draw.position - part.session.spec.num_prompt_tokens
    try:
        return replace(draw, allowed=tail.constraint.allowed(index))
    except OsaiError as e:
        step.failed[place] = e
        return draw


def _noted(part: StepPart, tail: TailState, draw: Draw, drawn: Drawn) -> Sampled:
    """The token for its session's owner, once the tail knows of it. Raises as TailState.note."""
    index = draw.position - part.session.spec.num_prompt_tokens
    is_end = tail.note(index, drawn.token_id)
    return Sampled(
        session=part.rows.session,
        epoch=part.rows.epoch,
        index=index,
        token_id=drawn.token_id,
        logprob=drawn.logprob,
        top=drawn.top,
        finish="stop" if is_end else part.session.finish(index, drawn.token_id),
    )


def pool_rows(parts: Sequence[StepPart], step: TailStep, hidden: torch.Tensor) -> dict[int, Sampled]:
    """Gather hidden states [num_tokens, hidden_size]; the vectors that are complete. Notes who can't in `failed`."""
    found: dict[int, Sampled] = {}
    pieces = torch.split(hidden, [part.rows.count for part in parts])
    for i, tail in step.pooled.items():
        rows = parts[i].rows
        if tail.pool is None:
            continue
        try:
            vector = tail.pool.add(rows.position, pieces[i])
        except OsaiError as e:
            step.failed[i] = e
            continue
        if vector is not None:
            found[i] = Sampled(
                session=rows.session, epoch=rows.epoch, index=0, token_id=0, finish="stop", embedding=vector
            )
    return found
