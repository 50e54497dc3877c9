"""What a session's actions are on the edges, and what nodes say of it: protobuf stays here."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from osai.coordinator.api import StageView
from osai.coordinator.plan import GenerationPlan
from osai.coordinator.sessions.actions import Follow, Open, Opened, OpenFollower, OpenKind, Resume, SendIds
from osai.coordinator.wire import POOLINGS, write_sampling, write_stage
from osai.core.grammar import write_grammar
from osai.core.prefix import shareable_hashes
from osai.proto import common_pb2, edge_pb2

Message = edge_pb2.LinkMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionWriter:
    """Writes messages of one session under one number.

    Attributes:
        number: the session's, on every edge.
        manifest_digest: of the weights that every stage must have.
    """

    number: int
    model_id: str
    manifest_digest: bytes
    plan: GenerationPlan

    def opens(self, action: Open, known: Sequence[int]) -> list[Message]:
        """One OpenSession a stage, in order; the tail's successor is the head.

        Args:
            action: what is opened.
            known: ids of all known tokens.
        """
        hashes = self._hashes(action.num_prompt_tokens, known)
        messages = []
        for index, stage in enumerate(action.pipeline):
            opened = self._open(stage, action, index, known, hashes)
            if action.kind is OpenKind.RESUME:
                opened.num_known_tokens = action.num_known_tokens
                opened.resume = True
            messages.append(Message(open=opened))
        return messages

    def open_follower(self, action: OpenFollower, known: Sequence[int]) -> Message:
        """Open the session on a follower, as its stage was opened."""
        hashes = self._hashes(action.num_prompt_tokens, known)
        opened = self._open(action.follower, action, action.index, known, hashes)
        opened.num_known_tokens = action.num_known_tokens
        opened.resume, opened.follow = action.resume, True
        return Message(open=opened)

    def resume(self, action: Resume) -> Message:
        """Where a stage goes on."""
        resumed = edge_pb2.ResumeSession(
            session=self.number, epoch=action.epoch, position=action.position, push_from=action.push_from
        )
        return Message(resume=resumed)

    def follow(self, action: Follow) -> Message:
        """Whom a stage is to push to, besides its successor."""
        followed = edge_pb2.FollowSession(session=self.number, epoch=action.epoch, follow_from=action.follow_from)
        if action.follower is not None:
            followed.follower.CopyFrom(write_stage(action.follower))
        return Message(follow=followed)

    def ids(self, action: SendIds, known: Sequence[int]) -> Message:
        """Token ids for a head."""
        return write_ids(self.number, action.epoch, known[action.position : action.end], action.position)

    def close(self, epoch: int, block_hashes: Sequence[bytes] = ()) -> Message:
        """The end of the session on a node; `block_hashes` name the KV that may serve later sessions."""
        return write_close(self.number, epoch, block_hashes)

    def _hashes(self, num_prompt_tokens: int, known: Sequence[int]) -> tuple[bytes, ...]:
        """Of the prompt; that of a session that was restarted is longer than its request's."""
        if num_prompt_tokens == len(self.plan.prompt):
            return self.plan.block_hashes
        return shareable_hashes(known[:num_prompt_tokens], self.plan.prefix_salt)

    def _open(
        self,
        stage: StageView,
        action: Open | OpenFollower,
        index: int,
        known: Sequence[int],
        hashes: Sequence[bytes],
    ) -> edge_pb2.OpenSession:
        pipeline = action.pipeline
        opened = edge_pb2.OpenSession(
            session=self.number,
            epoch=action.epoch,
            model_id=self.model_id,
            span=common_pb2.LayerRange(start=stage.span.start, end=stage.span.end),
            successor=write_stage(pipeline[(index + 1) % len(pipeline)]),
            num_prompt_tokens=action.num_prompt_tokens,
            max_total_tokens=self.plan.max_total_tokens,
            sampling=write_sampling(self.plan.sampling),
            manifest_digest=self.manifest_digest,
            block_hashes=hashes,
            num_stages=len(pipeline),
            predecessor=pipeline[index - 1].node_id,  # the head's is the tail
        )
        if index == len(pipeline) - 1:
            opened.stop_token_ids.extend(self.plan.stop_token_ids)
            if self.plan.needs_history:
                opened.prompt_token_ids.extend(known)
            if self.plan.grammar is not None:
                opened.grammar.CopyFrom(write_grammar(self.plan.grammar))
            opened.pooling = POOLINGS[self.plan.pooling]
        return opened


def write_ids(session: int, epoch: int, token_ids: Sequence[int], position: int) -> Message:
    """Ids of tokens from `position` on, for a head."""
    count = len(token_ids)
    frame = edge_pb2.Frame(session=session, epoch=epoch, position=position, count=count)
    data = struct.pack(f"<{count}i", *token_ids)
    batch = edge_pb2.FrameBatch(frames=[frame], dtype=common_pb2.DTYPE_INT32, shape=[count], data=data)
    return Message(frames=batch)


def write_close(session: int, epoch: int, block_hashes: Sequence[bytes] = ()) -> Message:
    """The end of a session, unless a later epoch than this has begun on the node."""
    return Message(close=edge_pb2.CloseSession(session=session, epoch=epoch, block_hashes=block_hashes))


def read_opened(message: edge_pb2.SessionOpened) -> Opened:
    """Read a stage's answer."""
    return Opened(
        epoch=message.epoch,
        num_cached_tokens=message.num_cached_tokens,
        position=message.position,
        journal_begin=message.journal_begin,
    )
