"""Followers of one session: nodes that keep a stage's KV up to date, to take its place. Pure.

A follower gets the rows of its stage from that stage's predecessor, or from the coordinator where it follows the head.
It computes and journals them, and pushes nothing. A standby waits for its stage to be lost; a handover's follower takes
over as soon as it has caught up.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from osai.coordinator.api import StageView
from osai.coordinator.sessions.actions import Action, Follow, Open, Opened, OpenFollower, SendIds


@dataclass(slots=True)
class _Follower:
    view: StageView
    index: int  # of its stage in the pipeline
    follows: bool = False  # rows are on their way to it
    position: int = 0  # rows before it are through


class Standbys:
    """The followers of one session, at most one a stage."""

    def __init__(self) -> None:
        self._followers: dict[str, _Follower] = {}
        self._hopeless: set[int] = set()  # stages whose predecessor's journal does not reach back far enough

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._followers

    @property
    def views(self) -> tuple[StageView, ...]:
        """All followers."""
        return tuple(follower.view for follower in self._followers.values())

    @property
    def ready(self) -> tuple[StageView, ...]:
        """Followers that get every row: they hold the session's KV, or soon will."""
        return tuple(follower.view for follower in self._followers.values() if follower.follows)

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Which of these stages have no follower, and could have one."""
        taken = {follower.index for follower in self._followers.values()}
        return [index for index in indices if index not in taken and index not in self._hopeless]

    def has_caught_up(self, index: int, position: int) -> bool:
        """Whether the follower of a stage is through with the rows before `position`."""
        return any(f.index == index and f.follows and f.position >= position for f in self._followers.values())

    def add(self, view: StageView, index: int, epoch: Open, num_known_tokens: int) -> list[Action]:
        """Let a node follow a stage."""
        self._followers[view.node_id] = _Follower(view, index)
        return [_open(view, index, epoch, num_known_tokens, resume=False)]

    def opened(self, node_id: str, answer: Opened, epoch: Open, num_known_tokens: int) -> list[Action]:
        """A follower has set the session up: the rows that it lacks are to come, and all later ones."""
        follower = self._followers[node_id]
        if follower.follows:
            return []
        follower.follows = True
        follower.position = at = min(answer.position, num_known_tokens - 1)
        if follower.index == 0:
            return [SendIds(stage=follower.view, epoch=epoch.epoch, position=at, end=num_known_tokens)]
        predecessor = epoch.pipeline[follower.index - 1]
        return [Follow(stage=predecessor, epoch=epoch.epoch, follower=follower.view, follow_from=at)]

    def progressed(self, node_id: str, position: int) -> None:
        """A follower says how far it is."""
        self._followers[node_id].position = max(self._followers[node_id].position, position)

    def token(self, epoch: int, num_known_tokens: int) -> list[Action]:
        """A token has come: whoever follows the head gets it from here."""
        return [
            SendIds(stage=follower.view, epoch=epoch, position=num_known_tokens - 1, end=num_known_tokens)
            for follower in self._followers.values()
            if follower.index == 0 and follower.follows
        ]

    def drop(self, node_id: str, epoch: Open, *, hopeless: bool = False) -> list[Action]:
        """A follower is lost or refuses: its stage's predecessor need not push to it any more.

        Args:
            node_id: the follower.
            epoch: the one that runs.
            hopeless: the predecessor does not have what a follower lacks; nor will it for another one.
        """
        follower = self._followers.pop(node_id)
        if hopeless:
            self._hopeless.add(follower.index)
        if not follower.follows or follower.index == 0:
            return []
        return [Follow(stage=epoch.pipeline[follower.index - 1], epoch=epoch.epoch, follower=None)]

    def promote(self, pipeline: tuple[StageView, ...]) -> None:
        """Another pipeline is being opened: its stages follow no more, the others' places are to be found."""
        stages = {stage.node_id for stage in pipeline}
        self._followers = {key: follower for key, follower in self._followers.items() if key not in stages}
        self._hopeless.clear()

    def reopen(self, epoch: Open, num_known_tokens: int) -> list[Action]:
        """An epoch has begun: followers of spans that are still there follow on; the others are forgotten."""
        old, self._followers = self._followers, {}
        actions: list[Action] = []
        for index, stage in enumerate(epoch.pipeline):
            view = next((follower.view for follower in old.values() if follower.view.span == stage.span), None)
            if view is not None:
                self._followers[view.node_id] = _Follower(view, index)
                actions.append(_open(view, index, epoch, num_known_tokens, resume=True))
        return actions

    def clear(self) -> None:
        """No follower is of use any more."""
        self._followers.clear()


def _open(view: StageView, index: int, epoch: Open, num_known_tokens: int, *, resume: bool) -> OpenFollower:
    return OpenFollower(
        follower=view,
        index=index,
        pipeline=epoch.pipeline,
        epoch=epoch.epoch,
        resume=resume,
        num_prompt_tokens=epoch.num_prompt_tokens,
        num_known_tokens=num_known_tokens,
    )
