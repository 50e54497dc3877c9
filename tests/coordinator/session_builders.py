"""Sessions of three stages in each state, and short words for what they are told."""

from coordinator.builders import stage
from osai.coordinator.api import Rerouted, StageView
from osai.coordinator.sessions.actions import (
    Action,
    Begin,
    Close,
    Emit,
    End,
    FindPipeline,
    Found,
    Open,
    Opened,
    OpenKind,
    Resume,
    SendIds,
    TokenEvent,
)
from osai.coordinator.sessions.config import SupervisionConfig
from osai.coordinator.sessions.session import Session
from osai.core.errors import OsaiError

PIPELINE = (stage("a", 0, 2), stage("b", 2, 4), stage("c", 4, 6))
SPARE = (PIPELINE[0], stage("spare", 2, 4), PIPELINE[2])
NUM_PROMPT = 4
CONFIG = SupervisionConfig(open_s=10, first_token_s=30, prompt_token_s=0.5, next_token_s=20)
TOKEN = TokenEvent(epoch=1, index=0, token_id=42)

__all__ = ["CONFIG", "NUM_PROMPT", "PIPELINE", "SPARE", "TOKEN", "Begin", "Emit", "Found", "OpenKind", "Rerouted"]


def token(index: int, epoch: int = 1, finish: str | None = None) -> TokenEvent:
    return TokenEvent(epoch=epoch, index=index, token_id=42, finish=finish)


def opened(epoch: int = 1, **fields: int) -> Opened:
    return Opened(epoch=epoch, **fields)


def session(**fields: int | bool) -> Session:
    return Session(PIPELINE, NUM_PROMPT, CONFIG, 100.0, **fields)  # type: ignore[arg-type]


def running(num_tokens: int = 0, **fields: int | bool) -> Session:
    """A session that is open, after some tokens, all at 101."""
    it = session(**fields)
    it.start()
    for name in "abc":
        it.opened(name, opened(), 101.0)
    for i in range(num_tokens):
        it.token("c", token(i), 101.0)
    return it


def reopened(it: Session, pipeline: tuple[StageView, ...], now_s: float, *answers: tuple[int, int]) -> list[Action]:
    """Give a session that looks for a pipeline this one, and let its stages open: (position, journal_begin) each."""
    (found,) = it.pipeline_found(Found(pipeline=pipeline), now_s)
    assert isinstance(found, Open)
    assert (found.pipeline, found.epoch, found.kind) == (pipeline, it.epoch, OpenKind.RESUME)
    actions: list[Action] = []
    for each, (position, begin) in zip(pipeline, answers, strict=True):
        assert actions == []
        answer = opened(it.epoch, position=position, journal_begin=begin)
        actions = it.opened(each.node_id, answer, now_s)
    return actions


def looked(actions: list[Action]) -> FindPipeline:
    """The one action: look for a pipeline."""
    (action,) = actions
    assert isinstance(action, FindPipeline)
    return action


def starts(actions: list[Action]) -> dict[str, tuple[int, int]]:
    """Where stages are told to go on: node -> (position, push_from)."""
    return {a.stage.node_id: (a.position, a.push_from) for a in actions if isinstance(a, Resume)}


def ids(actions: list[Action]) -> list[tuple[str, int, int]]:
    """Which ids go to whom: (node, position, end)."""
    return [(a.stage.node_id, a.position, a.end) for a in actions if isinstance(a, SendIds)]


def closed(actions: list[Action]) -> dict[str, bool]:
    """Which nodes are closed, and whether their KV is kept."""
    return {each.node_id: a.keep_kv for a in actions if isinstance(a, Close) for each in a.stages}


def ended(actions: list[Action]) -> OsaiError | str:
    """What the session ended with; all stages are closed before."""
    assert isinstance(actions[-2], Close)
    assert isinstance(actions[-1], End)
    return actions[-1].error or actions[-1].reason
