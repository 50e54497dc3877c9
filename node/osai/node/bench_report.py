"""What `osai-node bench` found, and how it is shown."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

PARTS = ("attention", "linear", "experts", "sampling", "other")  # of a step, in which they sum up
AROUND = ("queueing", "serialisation", "wire")  # of a token's way from one step to the next one's


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """A decode step of some sessions. Times are medians, in seconds.

    Attributes:
        num_sessions: rows of the step.
        step_s: measured with nothing in its way.
        parts_s: the step's parts, by name. Their shares are measured with hooks, and scaled to `step_s`.
        hooks_ratio: time of a step with the hooks / without.
        around_s: queueing (from the event loop to the engine's thread and back), serialisation (writing the step's
            frame and reading it), wire (one hop of that frame through a link on loopback, both ends in this process).
        weight_bytes_per_s: the span's weights / `step_s`.
    """

    num_sessions: int
    step_s: float
    parts_s: dict[str, float]
    hooks_ratio: float
    around_s: dict[str, float]
    weight_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """A span on this machine.

    Attributes:
        model: its id or folder.
        layers: which of its layers.
        dtype: of its arithmetic, with the quantisation.
        device: for people.
        num_threads: of torch.
        weight_bytes: in memory.
        context: tokens that each session holds.
        steps: one for each number of sessions.
    """

    model: str
    layers: str
    dtype: str
    device: str
    num_threads: int
    weight_bytes: int
    context: int
    steps: tuple[StepReport, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def to_table(self) -> Table:
        """For a terminal: a column for each number of sessions."""
        title = (
            f"layers {self.layers} of {self.model}: {self.weight_bytes / 2**20:.1f} MiB in {self.dtype} on "
            f"{self.device}, {self.num_threads} threads, {self.context} tokens a session"
        )
        table = Table(title=title, title_justify="left", caption=_CAPTION, caption_justify="left")
        table.add_column("a decode step, ms")
        for step in self.steps:
            table.add_column(f"{step.num_sessions} sessions" if step.num_sessions > 1 else "1 session", justify="right")
        for part in PARTS:
            cells = [f"{step.parts_s[part] * 1e3:.3f} ({step.parts_s[part] / step.step_s:4.0%})" for step in self.steps]
            table.add_row(part, *cells)
        table.add_row("step", *(f"{step.step_s * 1e3:.3f}" for step in self.steps), end_section=True)
        for name in AROUND:
            table.add_row(name, *(f"{step.around_s[name] * 1e3:.3f}" for step in self.steps))
        table.add_section()
        table.add_row("weights read, GB/s", *(f"{step.weight_bytes_per_s / 1e9:.1f}" for step in self.steps))
        table.add_row("with hooks / without", *(f"{step.hooks_ratio:.2f}" for step in self.steps))
        return table


_CAPTION = (
    "other: norms, rotary positions, activations, embedding, Python. Shares are measured with hooks and scaled to the "
    "step without. queueing, serialisation and wire come on top of the step."
)
