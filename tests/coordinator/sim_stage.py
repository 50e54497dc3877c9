"""A node's side of one session, as the contract has it, on a virtual clock: every row it gets is checked.

A layer's state after a row hangs on all rows before it, as KV does: a row that is missing, doubled or out of place
changes every later token.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from osai.coordinator.sessions.actions import Opened
from osai.core.errors import AssignmentError, InvalidRequestError, OsaiError, UnavailableError, UnknownSessionError
from osai.core.layers import LayerRange

VOCAB = 997
_MASK = (1 << 61) - 1


def mix(*values: int) -> int:
    """A number that hangs on all of them."""
    total = 7
    for value in values:
        total = (total * 1_000_003 + value * 2_654_435_761 + 12_345) & _MASK
    return total ^ (total >> 17)


def reference(prompt: list[int], num_tokens: int, num_layers: int) -> list[int]:
    """The tokens of an undisturbed run."""
    kv, known = Layers(LayerRange(0, num_layers)), list(prompt)
    out = [kv.run(value) for value in known][-1]
    for _ in range(num_tokens):
        known.append(out % VOCAB)
        out = kv.run(known[-1])
    return known[len(prompt) :]


class Layers:
    """KV of some layers."""

    def __init__(self, layers: LayerRange) -> None:
        self._layers = layers
        self.outputs: list[int] = []
        self._states: list[list[int]] = [[] for _ in range(len(layers))]

    def run(self, value: int) -> int:
        """Run the next row."""
        for number, states in zip(range(self._layers.start, self._layers.end), self._states, strict=True):
            value = mix(number, states[-1] if states else 0, value)
            states.append(value)
        self.outputs.append(value)
        return value

    def cut(self, position: int) -> None:
        """Forget rows from `position` on."""
        for rows in (self.outputs, *self._states):
            del rows[position:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What an OpenSession says."""

    number: int
    epoch: int
    successor: str
    num_prompt_tokens: int
    num_known_tokens: int
    max_total_tokens: int
    resume: bool = False
    follow: bool = False


@dataclass(slots=True)
class Held:
    """A session that is open on a stage."""

    spec: Spec
    kv: Layers
    journal_begin: int = 0
    goes: bool = True  # has been told to go on, or needs not be told
    push_from: int = 0
    follower: str = ""
    follow_from: int = 0
    waiting: list[tuple[int, int]] = field(default_factory=list)  # rows that are not run yet: (position, value)
    early: dict[int, int] = field(default_factory=dict)  # rows that came before the word to go on


class SimStage:
    """One node.

    Args:
        send: sends rows to another node, by its name: (name, number, epoch, first position, values).
        tell: tells the coordinator: (event, ...).
        later: calls something after a step.
        is_old: it speaks protocol 1.
    """

    def __init__(
        self,
        name: str,
        layers: LayerRange,
        num_layers: int,
        *,
        send: Callable[[str, str, int, int, int, list[int]], None],
        tell: Callable[..., None],
        later: Callable[[Callable[[], None]], None],
        is_old: bool = False,
    ) -> None:
        self.name = name
        self.layers = layers
        self.is_head, self.is_tail = layers.start == 0, layers.end == num_layers
        self._send, self._tell, self._later = send, tell, later
        self.held: dict[int, Held] = {}
        self.has_owner = True  # the coordinator's link is up
        self.refuses: OsaiError | None = None
        self.can_cut = True
        self.is_stuck = False
        self._is_old = is_old  # speaks protocol 1: what fails ends here

    def open(self, spec: Spec) -> None:
        """OpenSession."""
        held = self.held.get(spec.number)
        assert not (self._is_old and (spec.resume or spec.follow)), "it does not know what that is"
        if self.refuses is not None:
            self._fail(spec.number, spec.epoch, self.refuses, is_open=held is not None)
            return
        if held is None:
            goes = not spec.resume or spec.follow
            self.held[spec.number] = Held(spec, Layers(self.layers), goes=goes)
        elif held.spec.epoch >= spec.epoch or not spec.resume:
            self._fail(spec.number, spec.epoch, AssignmentError("fenced"), is_open=True)
            return
        else:
            self._reopen(held, spec)
        held = self.held[spec.number]
        position = len(held.kv.outputs)
        begin = position if self.is_tail else min(held.journal_begin, position)
        self._tell("opened", self.name, spec.number, Opened(epoch=spec.epoch, position=position, journal_begin=begin))

    def _reopen(self, held: Held, spec: Spec) -> None:
        held.spec, held.goes, held.follower = spec, spec.follow, ""
        held.waiting.clear()
        held.early.clear()
        position = min(len(held.kv.outputs), spec.num_known_tokens - 1)
        self._cut(held, position if self.can_cut or position == len(held.kv.outputs) else 0)

    def resume(self, number: int, epoch: int, position: int, push_from: int) -> None:
        """ResumeSession."""
        held = self._of(number, epoch)
        if held is None:
            return
        assert position <= len(held.kv.outputs)
        if position < len(held.kv.outputs) and not self.can_cut and position:
            del self.held[number]
            self._fail(number, epoch, InvalidRequestError("can't be cut"), is_open=False)
            return
        self._cut(held, position)
        if not self.is_tail and held.journal_begin > push_from:  # it was needed for others meanwhile
            self._fail(number, epoch, UnavailableError("the journal is gone"), is_open=True)
            return
        held.goes, held.push_from = True, push_from
        if not self.is_tail and push_from < position:
            self._send(self.name, held.spec.successor, number, epoch, push_from, held.kv.outputs[push_from:position])
        early, held.early = sorted(held.early.items()), {}
        for at, value in early:
            self._take(held, at, value)

    def follow(self, number: int, epoch: int, follower: str, follow_from: int) -> None:
        """FollowSession."""
        held = self._of(number, epoch)
        if held is None:
            return
        if follower and held.journal_begin > follow_from:
            self._fail(number, epoch, InvalidRequestError("the journal begins later", subject=follower), is_open=True)
            return
        held.follower, held.follow_from = follower, follow_from
        if follower and follow_from < len(held.kv.outputs):
            self._send(self.name, follower, number, epoch, follow_from, held.kv.outputs[follow_from:])

    def rows(self, sender: str, number: int, epoch: int, position: int, values: list[int]) -> None:
        """A frame."""
        held = self.held.get(number)
        if held is None:
            self._refuse(sender, number, epoch)
            return
        if epoch != held.spec.epoch or not self.has_owner:
            return
        for offset, value in enumerate(values):
            self._take(held, position + offset, value)

    def failed(self, number: int, epoch: int, error: OsaiError) -> None:
        """A successor refuses this node's frames, or can't be reached."""
        if (held := self._of(number, epoch)) is not None:
            if self._is_old:
                del self.held[number]
            self._fail(number, held.spec.epoch, error, is_open=not self._is_old)

    def lose_journals(self) -> None:
        """They were over the node's budget."""
        for held in self.held.values():
            held.journal_begin = len(held.kv.outputs)

    def go_on(self) -> None:
        """It is stuck no more."""
        self.is_stuck = False
        for number in tuple(self.held):
            self._step(number)

    def close(self, number: int, epoch: int) -> None:
        """CloseSession."""
        held = self.held.get(number)
        if held is not None and held.spec.epoch <= epoch:
            del self.held[number]

    def _take(self, held: Held, position: int, value: int) -> None:
        if not held.goes:
            held.early[position] = value
            return
        due = len(held.kv.outputs) + len(held.waiting)
        if held.spec.follow and position != due:
            if position > due:
                held.early[position] = value
            return
        assert position == due, f"{self.name}: row {position} came where {due} was due"
        held.waiting.append((position, value))
        self._later(lambda: self._step(held.spec.number))
        if held.spec.follow and due + 1 in held.early:
            self._take(held, due + 1, held.early.pop(due + 1))

    def _step(self, number: int) -> None:
        held = self.held.get(number)
        if held is None or not held.waiting or not held.goes or not self.has_owner or self.is_stuck:
            return
        spec, first = held.spec, held.waiting[0][0]
        outputs = [held.kv.run(value) for _, value in held.waiting]
        held.waiting.clear()
        if spec.follow:
            self._tell("progress", self.name, number, spec.epoch, len(held.kv.outputs))
        elif self.is_tail:
            self._draw(held)
        else:
            at = max(first, held.push_from)
            if pushed := outputs[at - first :]:
                self._send(self.name, spec.successor, number, spec.epoch, at, pushed)
            if held.follower:
                self._send(self.name, held.follower, number, spec.epoch, first, outputs)

    def _draw(self, held: Held) -> None:
        spec, num_rows = held.spec, len(held.kv.outputs)
        if num_rows < spec.num_known_tokens:
            return
        token, index = held.kv.outputs[-1] % VOCAB, num_rows - spec.num_prompt_tokens
        finish = "length" if num_rows + 1 == spec.max_total_tokens else None
        self._tell("token", self.name, spec.number, spec.epoch, index, token, finish)
        if finish is None:
            self._send(self.name, spec.successor, spec.number, spec.epoch, num_rows, [token])

    def _cut(self, held: Held, position: int) -> None:
        held.kv.cut(position)
        held.journal_begin = min(held.journal_begin, position)

    def _of(self, number: int, epoch: int) -> Held | None:
        held = self.held.get(number)
        return held if held is not None and held.spec.epoch == epoch else None

    def _refuse(self, sender: str, number: int, epoch: int) -> None:
        error = UnknownSessionError("not open here", subject=self.name)
        self._tell("refused", sender, number, epoch, error)

    def _fail(self, number: int, epoch: int, error: OsaiError, *, is_open: bool) -> None:
        error.subject = error.subject or self.name
        self._tell("failed", self.name, number, epoch, error, is_open)


def unreachable(name: str) -> OsaiError:
    """What a node says of a successor whose link broke."""
    return UnavailableError(f"node {name} was lost", subject=name)
