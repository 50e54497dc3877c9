"""Supervision of one session: events and `now` in, actions out. Pure; the shell is osai.coordinator.generations.

A session runs in epochs. One begins with Open; when every stage has said where it stands, each is told where to go on
(see the module recovery), and the head is given the ids of the tokens that are known. Whatever goes wrong, and
whatever promises to go better elsewhere, leads to the next epoch: look for a pipeline, open, go on.
"""

from math import inf

from osai.coordinator.api import Rerouted, StageView, Waiting
from osai.coordinator.sessions import setbacks
from osai.coordinator.sessions.actions import Action, Begin, Emit, End, Found, Opened, OpenKind, TokenEvent
from osai.coordinator.sessions.config import SupervisionConfig
from osai.coordinator.sessions.detours import Detours
from osai.coordinator.sessions.epochs import Epochs
from osai.coordinator.sessions.moves import Moves
from osai.coordinator.sessions.phase import Phase
from osai.coordinator.sessions.setbacks import NOBODY, Setback
from osai.coordinator.sessions.token_pace import TokenPace
from osai.coordinator.sessions.trouble import Trouble, is_hopeless
from osai.core.errors import CancelledError, NotCoveredError, OsaiError, PeerError, UnavailableError

__all__ = ["Session", "SupervisionConfig", "TokenEvent"]


class Session:
    """One session, over one pipeline after another.

    Args:
        pipeline: the first one, or the last that is known of a session that is resumed.
        num_prompt_tokens: of the prompt.
        config: how long it may take for what.
        now_s: the time.
        num_tokens: generated already, as the session is resumed.
        attempt: of its resumption; 0 for a new session.
        with_standbys: let another node follow each stage, where there is one.
    """

    def __init__(
        self,
        pipeline: tuple[StageView, ...],
        num_prompt_tokens: int,
        config: SupervisionConfig,
        now_s: float,
        *,
        num_tokens: int = 0,
        attempt: int = 0,
        with_standbys: bool = False,
    ) -> None:
        self.num_tokens = num_tokens  # generated so far
        self.num_recoveries = 0
        self._config = config
        self._is_resumed = attempt > 0
        self._epochs = Epochs(pipeline, num_prompt_tokens, num_tokens, attempt)
        self._detours = Detours()
        self._trouble = Trouble(config)
        self._pace = TokenPace(config)
        self._moves = Moves(config, self._epochs, self._detours, with_standbys=with_standbys)
        self._phase = Phase.LOOKING
        self._has_begun = False  # the client knows of it
        self._now_s = now_s
        self._due_s = inf

    @property
    def pipeline(self) -> tuple[StageView, ...]:
        """The stages of the epoch."""
        return self._epochs.pipeline

    @property
    def epoch(self) -> int:
        """Its number; what belongs to another one is dropped."""
        return self._epochs.number

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of a new session's prompt whose KV every stage that is open has."""
        return self._epochs.num_cached_tokens

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes of the pipeline, and those that follow them."""
        return self._epochs.nodes

    @property
    def deadline_s(self) -> float:
        """When `tick` is due."""
        return min(self._due_s, self._moves.due_s if self._phase is Phase.RUNNING else inf)

    def start(self) -> list[Action]:
        """Begin."""
        if not self._is_resumed:
            return self._open(Found(pipeline=self.pipeline), self._now_s, is_new=True)
        self._detours.kept = {stage.node_id: stage.span for stage in self.pipeline}
        self._trouble.began("the session is resumed", self._now_s)
        return self._moves.look(self._now_s)

    def opened(self, node_id: str, answer: Opened, now_s: float) -> list[Action]:
        """A stage or a follower has set the session up."""
        if self._phase is Phase.OVER or answer.epoch != self.epoch:
            return []
        if node_id in self._epochs.standbys:
            return self._epochs.follower_opened(node_id, answer) if self._phase is Phase.RUNNING else []
        stage = self._epochs.stage(node_id)
        if self._phase is not Phase.OPENING or stage is None or node_id not in self._epochs.waiting:
            return []
        try:
            self._epochs.opened(node_id, answer)
        except PeerError as e:
            problem = PeerError(f"node {node_id} {e.message}", subject=node_id)
            return self.failed(node_id, self.epoch, problem, now_s)
        self._detours.kept[node_id] = stage.span
        return [] if self._epochs.waiting else self._run(now_s)

    def token(self, node_id: str, token: TokenEvent, now_s: float) -> list[Action]:
        """A token has come; only the tail's count, while its epoch lasts."""
        if self._phase is Phase.OVER or token.epoch != self.epoch or node_id != self.pipeline[-1].node_id:
            return []
        token = self._epochs.counted(token)
        if self._epochs.runs and token.index < self.num_tokens:
            return []  # it came twice
        if not self._epochs.runs or token.index > self.num_tokens:
            due = self.num_tokens if self._epochs.runs else "the end of the prompt"
            problem = PeerError(f"the tail sent token {token.index} where {due} was due", subject=node_id)
            return self._end(End(error=problem))
        return self._drawn(token, now_s)

    def progressed(self, node_id: str, epoch: int, position: int) -> list[Action]:
        """A follower says how far it is."""
        if epoch == self.epoch and node_id in self._epochs.standbys:
            self._epochs.standbys.progressed(node_id, position)
        return []

    def failed(
        self, node_id: str, epoch: int, error: OsaiError, now_s: float, *, is_open: bool = False
    ) -> list[Action]:
        """A node says that it can't go on as it is; `is_open`: it keeps its KV and journal for another epoch."""
        if self._phase is Phase.OVER or epoch != self.epoch:
            return []
        if node_id in self._epochs.standbys:
            return self._lose_follower(node_id, now_s)
        if self._epochs.stage(node_id) is None:
            return []
        if self._epochs.is_new:
            return self._end(End(error=error))
        if error.subject in self._epochs.standbys:
            return self._lose_follower(error.subject, now_s, unreachable=not isinstance(error, UnavailableError))
        if is_open:  # whatever it is, another epoch may mend it
            error = UnavailableError(error.message, subject=error.subject) if is_hopeless(error) else error
        is_edge = error.subject != node_id and self._epochs.stage(error.subject) is not None
        self._detours.blame(node_id, error, now_s, is_open=is_open, is_edge=is_edge)
        return self._reroute(setbacks.failed(node_id, error, is_edge=is_edge), now_s)

    def lost(self, node_id: str, reason: OsaiError, now_s: float) -> list[Action]:
        """The link to a node broke."""
        if self._phase is Phase.OVER:
            return []
        if node_id in self._epochs.standbys:
            return self._lose_follower(node_id, now_s)
        if self._epochs.stage(node_id) is None:
            return []
        setback = setbacks.lost(node_id, reason)
        if self._epochs.is_new:
            return self._end(End(error=setback.error))
        self._detours.failed(node_id, now_s)
        return self._reroute(setback, now_s)

    def pipeline_found(self, found: Found, now_s: float) -> list[Action]:
        """The answer to FindPipeline."""
        if self._phase is Phase.RUNNING and found.resumable and self._moves.is_better(found.pipeline):
            self._trouble.began(self._moves.reason, now_s)
            return self._open(found, now_s)
        return self._open(found, now_s) if self._phase is Phase.LOOKING else []

    def no_pipeline(self, gap: NotCoveredError | None, now_s: float) -> list[Action]:
        """The answer to FindPipeline where there is none; `gap`: what the swarm lacks, whatever is avoided."""
        if self._phase is not Phase.LOOKING:
            return []
        if self._detours.forgive_edges(now_s):
            return self._moves.look(now_s)
        remaining_s = self._trouble.strand(now_s)
        if remaining_s <= 0 or self._trouble.is_hopeless:
            return self._end(End(error=self._trouble.verdict(self.num_tokens, gap)))
        self._due_s = now_s + min(self._config.retry_s, remaining_s)
        if not self._has_begun or not self._trouble.notice_due(now_s):
            return []
        return [Waiting(reason=gap.message if gap else self._trouble.reason, remaining_s=remaining_s)]

    def standby_found(self, stage: StageView, view: StageView | None, now_s: float) -> list[Action]:
        """The answer to FindStandby."""
        if self._phase is not Phase.RUNNING or stage not in self.pipeline:
            return []
        return self._moves.standby_found(stage, view, now_s)

    def swarm_changed(self, now_s: float) -> list[Action]:
        """Nodes have come or gone: perhaps there is a pipeline now."""
        return self._moves.look(now_s) if self._phase is Phase.LOOKING else []

    def watched(self, suspects: frozenset[str], draining: frozenset[str], now_s: float) -> list[Action]:
        """Nodes that are slow or stuck, and such as are about to leave."""
        if self._phase is not Phase.RUNNING:
            return []
        nodes = self._epochs.stage_nodes
        return self._moves.watched(nodes & suspects, nodes & draining, now_s)

    def cancel(self) -> list[Action]:
        """Nobody wants more: the client has gone, or a stop string has come."""
        end = End(error=CancelledError("the client cancelled the generation"))
        return self._end(end, keep_kv=self._phase is Phase.RUNNING)

    def tick(self, now_s: float) -> list[Action]:
        """Time passes."""
        if now_s < self.deadline_s:
            return []
        if now_s < self._due_s:
            return self._moves.find_standbys(now_s)
        match self._phase:
            case Phase.OPENING:
                return self._not_opened(now_s)
            case Phase.RUNNING:
                return self._nudge(now_s)
        return self._moves.look(now_s) if self._phase is Phase.LOOKING else []

    def _drawn(self, token: TokenEvent, now_s: float) -> list[Action]:
        """The next token."""
        self.num_tokens += 1
        fed = self._epochs.token()
        if token.finish is not None:
            return [Emit(token), *self._end(End(reason=token.finish), keep_kv=self._phase is Phase.RUNNING)]
        self._detours.progress()
        self._trouble.progress()
        if self._phase is not Phase.RUNNING:
            return [Emit(token)]  # it was on its way when another stage was lost
        self._due_s = self._pace.token(now_s)
        return [Emit(token), *fed, *self._moves.find_standbys(now_s)]

    def _open(self, found: Found, now_s: float, *, is_new: bool = False) -> list[Action]:
        if self._epochs.is_last:
            return self._end(End(error=self._trouble.exhausted(self.num_tokens)))
        kind = OpenKind.NEW if is_new else OpenKind.RESUME if found.resumable else OpenKind.RESTART
        if kind is OpenKind.RESTART:
            self._detours.kept.clear()
        self._phase = Phase.OPENING
        self._due_s = now_s + self._config.open_s
        return self._epochs.open(found.pipeline, kind)

    def _run(self, now_s: float) -> list[Action]:
        """Every stage is open: the epoch begins."""
        self._phase = Phase.RUNNING
        self._due_s = self._pace.began(now_s, self._epochs.num_rows, is_first=self.num_tokens == 0)
        actions = self._epochs.begin()
        self._detours.kept = {stage.node_id: stage.span for stage in self.pipeline}
        if not self._has_begun:
            self._has_begun = True
            actions.append(Begin())
        elif self._trouble.since_s is not None:
            self.num_recoveries += 1
            pause_s = now_s - self._trouble.since_s
            actions.append(Rerouted(pipeline=self.pipeline, reason=self._trouble.reason, pause_s=pause_s))
        self._trouble.over()
        return actions

    def _reroute(self, setback: Setback, now_s: float) -> list[Action]:
        self._trouble.began(setback.reason, now_s, setback.error)
        if self._phase is Phase.LOOKING:
            return []
        if self._phase is Phase.RUNNING and self._trouble.fruitless():
            return self._end(End(error=self._trouble.exhausted(self.num_tokens)))
        if self._phase is Phase.OPENING and self._trouble.strand(now_s) <= 0:
            return self._end(End(error=self._trouble.verdict(self.num_tokens)))
        self._phase = Phase.LOOKING
        return self._moves.look(now_s, suspects=setback.suspects)

    def _not_opened(self, now_s: float) -> list[Action]:
        setback = setbacks.late(self._epochs.waiting)
        if self._epochs.is_new:
            return self._end(End(error=setback.error))
        for node_id in self._epochs.waiting:
            self._detours.failed(node_id, now_s)
        return self._reroute(setback, now_s)

    def _nudge(self, now_s: float) -> list[Action]:
        """A token is overdue: rows that were lost on their way are run again, in a new epoch."""
        self._pace.num_nudges += 1
        is_first = self._pace.num_nudges == 1
        setback = setbacks.overdue(self.num_tokens, NOBODY if is_first else self._epochs.stage_nodes)
        if self._pace.num_nudges > self._config.max_nudges:
            return self._end(End(error=setback.error))
        return self._reroute(setback, now_s)

    def _lose_follower(self, node_id: str, now_s: float, *, unreachable: bool = False) -> list[Action]:
        self._detours.failed(node_id, now_s)
        return self._epochs.drop_follower(node_id, unreachable=unreachable)

    def _end(self, end: End, *, keep_kv: bool = False) -> list[Action]:
        if self._phase is Phase.OVER:
            return []
        self._phase, self._due_s = Phase.OVER, inf
        return [*self._epochs.close(keep_kv=keep_kv), end]
