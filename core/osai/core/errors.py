"""Every error that osai raises on purpose, as one tree.

Each class carries the code that names it on the wire, so that a failure crosses processes without losing its type:
`to_proto` and `from_proto` are inverse. Messages say what happened and what to do.
"""

import math
from typing import ClassVar

from osai.proto import common_pb2

MAX_TOLD_CHARS = 4000  # of a peer's message
MAX_SUBJECT_CHARS = 255


class OsaiError(Exception):
    """Root of the tree.

    Attributes:
        message: what happened and what to do about it.
        subject: whom it is about (a node id, a tensor's name); may be empty.
    """

    code: ClassVar[common_pb2.ErrorCode.ValueType] = common_pb2.ERROR_CODE_INTERNAL

    def __init__(self, message: str, *, subject: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject

    def to_proto(self) -> common_pb2.Error:
        """The error as it crosses the wire."""
        return common_pb2.Error(code=self.code, message=self.message, subject=self.subject)


class InternalError(OsaiError):
    """Something that should not happen; the peer's log says more."""


class InvalidRequestError(OsaiError):
    """The request can't be served as it is written."""

    code = common_pb2.ERROR_CODE_INVALID_REQUEST


class UnknownModelError(InvalidRequestError):
    """No model of that id is served here."""

    code = common_pb2.ERROR_CODE_UNKNOWN_MODEL


class ContextExceededError(InvalidRequestError):
    """Prompt and generated tokens would not fit in the model's context."""

    code = common_pb2.ERROR_CODE_CONTEXT_EXCEEDED


class SwarmError(OsaiError):
    """The swarm can't serve the request now."""

    code = common_pb2.ERROR_CODE_UNAVAILABLE


class NotCoveredError(SwarmError):
    """No set of ready nodes hosts every layer."""

    code = common_pb2.ERROR_CODE_NOT_COVERED


class UnavailableError(SwarmError):
    """A stage or the coordinator was lost, or can't be reached."""


class ResourceExhaustedError(SwarmError):
    """No room: KV blocks, a bounded queue or a quota are full.

    Attributes:
        retry_after_s: seconds after which there is room again; 0 where that is not known.
    """

    code = common_pb2.ERROR_CODE_RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, subject: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message, subject=subject)
        self.retry_after_s = retry_after_s

    def to_proto(self) -> common_pb2.Error:
        """The error as it crosses the wire."""
        wire = super().to_proto()
        wire.retry_after_s = self.retry_after_s
        return wire


class DeadlineExceededError(SwarmError):
    """A wait reached its deadline."""

    code = common_pb2.ERROR_CODE_DEADLINE_EXCEEDED


class CancelledError(OsaiError):
    """The client cancelled the generation."""

    code = common_pb2.ERROR_CODE_CANCELLED


class PeerError(OsaiError):
    """A peer broke the wire contract."""

    code = common_pb2.ERROR_CODE_BAD_FRAME


class ProtocolMismatchError(PeerError):
    """The two sides speak different versions of the protocol."""

    code = common_pb2.ERROR_CODE_PROTOCOL_MISMATCH


class BadFrameError(PeerError):
    """A frame's shape, dtype, size or position is wrong."""


class NotFiniteError(BadFrameError):
    """Hidden states hold a NaN or an infinity: whoever computed them is to blame, and not the way that they took."""


class UnknownSessionError(PeerError):
    """A message names a session that this node does not serve."""

    code = common_pb2.ERROR_CODE_UNKNOWN_SESSION


class TrustError(OsaiError):
    """Something that was to be believed could not be."""

    code = common_pb2.ERROR_CODE_MANIFEST


class ManifestError(TrustError):
    """A manifest is missing, malformed, unsigned or signed by a key that is not trusted."""


class WeightsError(TrustError):
    """Checkpoint data are missing, in a refused format, or differ from the manifest."""

    code = common_pb2.ERROR_CODE_WEIGHTS


class UnauthenticatedError(TrustError):
    """Whoever calls has shown no certificate or API key, or none that is valid here."""

    code = common_pb2.ERROR_CODE_UNAUTHENTICATED


class ForbiddenError(TrustError):
    """Whoever calls is known, and may not do this."""

    code = common_pb2.ERROR_CODE_FORBIDDEN


class AssignmentError(OsaiError):
    """A span that the node can't take."""

    code = common_pb2.ERROR_CODE_ASSIGNMENT


class SetupError(OsaiError):
    """The program can't start as configured: a port in use, a folder that can't be written, a bad option."""

    code = common_pb2.ERROR_CODE_INVALID_REQUEST


_BY_CODE: dict[int, type[OsaiError]] = {
    common_pb2.ERROR_CODE_INTERNAL: InternalError,
    common_pb2.ERROR_CODE_PROTOCOL_MISMATCH: ProtocolMismatchError,
    common_pb2.ERROR_CODE_INVALID_REQUEST: InvalidRequestError,
    common_pb2.ERROR_CODE_UNKNOWN_MODEL: UnknownModelError,
    common_pb2.ERROR_CODE_NOT_COVERED: NotCoveredError,
    common_pb2.ERROR_CODE_CONTEXT_EXCEEDED: ContextExceededError,
    common_pb2.ERROR_CODE_RESOURCE_EXHAUSTED: ResourceExhaustedError,
    common_pb2.ERROR_CODE_UNAVAILABLE: UnavailableError,
    common_pb2.ERROR_CODE_DEADLINE_EXCEEDED: DeadlineExceededError,
    common_pb2.ERROR_CODE_CANCELLED: CancelledError,
    common_pb2.ERROR_CODE_BAD_FRAME: BadFrameError,
    common_pb2.ERROR_CODE_UNKNOWN_SESSION: UnknownSessionError,
    common_pb2.ERROR_CODE_MANIFEST: ManifestError,
    common_pb2.ERROR_CODE_WEIGHTS: WeightsError,
    common_pb2.ERROR_CODE_ASSIGNMENT: AssignmentError,
    common_pb2.ERROR_CODE_UNAUTHENTICATED: UnauthenticatedError,
    common_pb2.ERROR_CODE_FORBIDDEN: ForbiddenError,
}


def from_proto(error: common_pb2.Error) -> OsaiError:
    """The typed error of a wire error; a code from a newer peer becomes an InternalError. What is too long is cut."""
    kind, message = _BY_CODE.get(error.code, InternalError), error.message[:MAX_TOLD_CHARS] or "no reason was given"
    subject = error.subject[:MAX_SUBJECT_CHARS]
    if kind is not ResourceExhaustedError:
        return kind(message, subject=subject)
    known = math.isfinite(error.retry_after_s) and error.retry_after_s > 0  # a peer's word: waits are made of it
    return ResourceExhaustedError(message, subject=subject, retry_after_s=error.retry_after_s if known else 0.0)
