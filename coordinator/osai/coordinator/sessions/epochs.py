"""The epochs of one session: which nodes take part, what they are told as one begins and when all is over. Pure."""

from dataclasses import replace

from osai.coordinator.api import StageView
from osai.coordinator.sessions.actions import Action, Close, Open, Opened, OpenKind, Resume, SendIds, TokenEvent
from osai.coordinator.sessions.opening import Opening
from osai.coordinator.sessions.standby import Standbys

REROUTE_BITS = 16  # of an epoch; above them is the attempt, by which a later coordinator overtakes an earlier one
LAST_REROUTE = (1 << REROUTE_BITS) - 1


class Epochs:
    """Opens them one after another.

    Args:
        pipeline: the first one, or the last that is known of a session that is resumed.
        num_prompt_tokens: of the prompt.
        num_tokens: generated already, as the session is resumed.
        attempt: of its resumption; 0 for a new session.
    """

    def __init__(
        self, pipeline: tuple[StageView, ...], num_prompt_tokens: int, num_tokens: int = 0, attempt: int = 0
    ) -> None:
        self.number = attempt << REROUTE_BITS
        self.pipeline = pipeline
        self.num_known_tokens = num_prompt_tokens + num_tokens
        self.standbys = Standbys()
        self.runs = False  # its stages have been told to go on
        self._first_prompt_tokens = num_prompt_tokens
        self._num_prompt_tokens = num_prompt_tokens  # of the session's number: of one that was restarted, all it had
        self._touched: dict[str, StageView] = {}
        self._opening: Opening | None = None

    @property
    def is_last(self) -> bool:
        """Whether no number is left for another epoch."""
        return self.number & LAST_REROUTE == LAST_REROUTE

    @property
    def waiting(self) -> frozenset[str]:
        """Nodes that have not answered yet."""
        return frozenset(self._opening.waiting) if self._opening else frozenset()

    @property
    def is_new(self) -> bool:
        """Whether this is a session's first epoch, which leads to no second until it runs."""
        return not self.runs and self._opening is not None and self._opening.open.kind is OpenKind.NEW

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of a new session's prompt whose KV every stage that has answered has."""
        return self._opening.num_cached_tokens if self._opening and self._opening.open.kind is OpenKind.NEW else 0

    @property
    def num_rows(self) -> int:
        """Rows that some stage has to run before the epoch's first token."""
        return self.num_known_tokens - min(start.position for start in self._opened.starts())

    @property
    def stage_nodes(self) -> frozenset[str]:
        """Nodes of the pipeline."""
        return frozenset(stage.node_id for stage in self.pipeline)

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes of the pipeline, and those that follow them."""
        return self.stage_nodes.union(view.node_id for view in self.standbys.views)

    def stage(self, node_id: str) -> StageView | None:
        """The stage on a node."""
        return next((stage for stage in self.pipeline if stage.node_id == node_id), None)

    def counted(self, token: TokenEvent) -> TokenEvent:
        """A token with its index in the generation; the tail counts from the prompt of the session's number."""
        first = self._num_prompt_tokens - self._first_prompt_tokens
        return replace(token, index=token.index + first) if first else token

    def open(self, pipeline: tuple[StageView, ...], kind: OpenKind) -> list[Action]:
        """Begin the next one."""
        actions: list[Action] = []
        if kind is OpenKind.RESTART:
            self.standbys.clear()
            actions = self._close(tuple(self._touched.values()))
            self._num_prompt_tokens = self.num_known_tokens
        self.number += 1
        self.runs = False
        self.pipeline = pipeline
        self._touched |= {stage.node_id: stage for stage in pipeline}
        self.standbys.promote(pipeline)
        opened = Open(
            pipeline=pipeline,
            epoch=self.number,
            kind=kind,
            num_prompt_tokens=self._num_prompt_tokens,
            num_known_tokens=self.num_known_tokens,
        )
        self._opening = Opening(opened)
        return [*actions, opened]

    def opened(self, node_id: str, answer: Opened) -> None:
        """A stage that is waited for has answered.

        Raises:
            PeerError: if its answer can't be.
        """
        self._opened.opened(node_id, answer)

    def begin(self) -> list[Action]:
        """All have answered: the stages go on, the tail first, so that none gets rows before it knows which."""
        starts = self._opened.starts()
        actions: list[Action] = []
        if self._opened.open.kind is OpenKind.RESUME:
            actions += [
                Resume(stage=stage, epoch=self.number, position=start.position, push_from=start.push_from)
                for stage, start in reversed(list(zip(self.pipeline, starts, strict=True)))
            ]
        head, at = self.pipeline[0], starts[0].position
        actions.append(SendIds(stage=head, epoch=self.number, position=at, end=self.num_known_tokens))
        self.runs = True
        actions += self.standbys.reopen(self._opened.open, self.num_known_tokens)
        return [*actions, *self._close(self._unused())]

    def token(self) -> list[Action]:
        """A token has come: one more is known."""
        self.num_known_tokens += 1
        return self.standbys.token(self.number, self.num_known_tokens)

    def follow(self, view: StageView, stage: StageView) -> list[Action]:
        """Let a node follow a stage of the running pipeline."""
        self._touched[view.node_id] = view
        return self.standbys.add(view, self.pipeline.index(stage), self._opened.open, self.num_known_tokens)

    def follower_opened(self, node_id: str, answer: Opened) -> list[Action]:
        """A follower has set the session up."""
        return self.standbys.opened(node_id, answer, self._opened.open, self.num_known_tokens)

    def drop_follower(self, node_id: str, *, unreachable: bool = False) -> list[Action]:
        """A follower is of no use; `unreachable`: nor would another of its stage be."""
        actions = self.standbys.drop(node_id, self._opened.open, hopeless=unreachable)
        return [*actions, *self._close(self._unused())] if self.runs else []

    def close(self, *, keep_kv: bool) -> list[Action]:
        """All is over, for every node that ever took part; the pipeline's KV may be of use to others."""
        if not keep_kv:
            return self._close(tuple(self._touched.values()))
        kept = Close(stages=self.pipeline, epoch=self.number, keep_kv=True)
        others = tuple(stage for key, stage in self._touched.items() if self.stage(key) is None)
        return [kept, *self._close(others)]

    @property
    def _opened(self) -> Opening:
        if self._opening is None:
            raise RuntimeError("no epoch was opened")
        return self._opening

    def _unused(self) -> tuple[StageView, ...]:
        return tuple(
            stage for key, stage in self._touched.items() if self.stage(key) is None and key not in self.standbys
        )

    def _close(self, stages: tuple[StageView, ...]) -> list[Action]:
        for stage in stages:
            self._touched.pop(stage.node_id, None)
        return [Close(stages=stages, epoch=self.number)] if stages else []
