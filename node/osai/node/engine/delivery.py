"""What of a step's results is still wanted when they reach the event loop."""

import torch

from osai.node.engine.api import Rows, StepOutput
from osai.node.engine.hosted_span import StepResult
from osai.node.engine.work import Step


def output_of(step: Step, result: StepResult, step_time_s: float) -> StepOutput:
    """The step's output without stale parts; failed sessions are named in `failed` and nowhere else."""
    wanted = [i for i, part in enumerate(step.parts) if not part.stale]
    good = [i for i in wanted if i not in result.failed]
    rows = [part.chunk.rows for part in step.parts]
    return StepOutput(
        span=step.span,
        rows=tuple(rows[i] for i in good),
        hidden=_rows_of(result.hidden, rows, good),
        sampled=tuple(result.sampled[i] for i in good if i in result.sampled),
        failed=tuple((rows[i], result.failed[i]) for i in wanted if i in result.failed),
        step_time_s=step_time_s,
    )


def _rows_of(hidden: torch.Tensor | None, rows: list[Rows], good: list[int]) -> torch.Tensor | None:
    """Those of `hidden` [num_tokens, hidden_size] that belong to the parts `good`."""
    if hidden is None or len(good) == len(rows):
        return hidden
    parts = torch.split(hidden, [r.count for r in rows])
    return torch.cat([parts[i] for i in good]) if good else hidden[:0]
