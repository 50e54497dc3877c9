"""What the answers of a chat took. Pure."""

from dataclasses import dataclass

from osai.client.events import Completion, FinishReason, Stage, Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One answer. `finish_reason` is None where it was stopped."""

    num_tokens: int
    num_prompt_tokens: int
    timings: Timings
    finish_reason: FinishReason | None
    num_recoveries: int = 0
    pipeline: tuple[Stage, ...] = ()


class Clock:
    """Times of an answer as its reader sees them. `now_s` is monotonic time throughout."""

    def __init__(self, now_s: float) -> None:
        self._begun_s = now_s
        self._first_s: float | None = None
        self._last_s = now_s
        self._num_tokens = 0

    def came(self, num_tokens: int, now_s: float) -> None:
        """Tokens came."""
        if num_tokens:
            self._first_s = now_s if self._first_s is None else self._first_s
            self._last_s = now_s
            self._num_tokens += num_tokens

    def timings(self) -> Timings:
        """So far."""
        if self._first_s is None:
            return Timings(ttft_s=0.0, decode_tokens_per_s=0.0)
        span_s = self._last_s - self._first_s
        rate = (self._num_tokens - 1) / span_s if span_s > 0 else 0.0
        return Timings(ttft_s=self._first_s - self._begun_s, decode_tokens_per_s=rate)


def taken_by(completion: Completion) -> Taken:
    """What a whole answer took."""
    reason: FinishReason | None = None if completion.finish_reason == "error" else completion.finish_reason
    return Taken(
        num_tokens=completion.usage.num_generated_tokens,
        num_prompt_tokens=completion.usage.num_prompt_tokens,
        timings=completion.timings,
        finish_reason=reason,
        num_recoveries=completion.num_recoveries,
        pipeline=completion.pipeline,
    )


class Tally:
    """All answers of a chat."""

    def __init__(self) -> None:
        self._answers: list[Taken] = []

    def add(self, taken: Taken) -> None:
        """One more."""
        self._answers.append(taken)

    def lines(self) -> list[str]:
        """For people."""
        if not self._answers:
            return ["nothing was answered yet"]
        last, num_tokens = self._answers[-1], sum(taken.num_tokens for taken in self._answers)
        timings = [taken.timings for taken in self._answers]
        rates = [times.decode_tokens_per_s for times in timings if times.decode_tokens_per_s]
        first_s = [times.ttft_s for times in timings]
        return [
            f"answers      {len(self._answers)}",
            f"tokens       {num_tokens} generated; the last prompt had {last.num_prompt_tokens}",
            f"tokens/s     {_middle(rates):.1f} (median)",
            f"first token  {_middle(first_s):.2f} s (median)",
            f"recoveries   {sum(taken.num_recoveries for taken in self._answers)}",
            f"served by    {' > '.join(f'{s.node_id[:8]} [{s.span}]' for s in last.pipeline) or 'nobody'}",
        ]


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def figures(taken: Taken) -> str:
    """One short line about an answer."""
    num_times = taken.num_recoveries
    parts = [
        f"{taken.num_tokens} token{'' if taken.num_tokens == 1 else 's'}",
        f"{taken.timings.decode_tokens_per_s:.1f} tokens/s",
        f"first after {taken.timings.ttft_s:.2f} s",
        *([f"recovered {'once' if num_times == 1 else f'{num_times} times'}"] if num_times else []),
        *(["cut off: allow more with --max-tokens"] if taken.finish_reason == "length" else []),
        *(["stopped"] if taken.finish_reason is None else []),
    ]
    return " \N{MIDDLE DOT} ".join(parts)
