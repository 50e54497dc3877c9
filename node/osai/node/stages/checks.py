"""Whether a session may be opened on a stage. Pure."""

from osai.core.errors import AssignmentError, InvalidRequestError
from osai.node.stages.sessions import StageSession
from osai.node.stages.stage import HostedSpan, OpenRequest


def check_span(request: OpenRequest, span: HostedSpan | None) -> HostedSpan:
    """The span that is asked for.

    Raises:
        InvalidRequestError: if the pipeline is said to have more stages than the model has layers.
        AssignmentError: if this node does not serve it, or not of those weights.
    """
    if span is None or span.layers != request.layers:
        has = f"layers {span.layers} of it" if span else "none of it"
        raise AssignmentError(f"asked for layers {request.layers} of {request.model_id}; this node serves {has}")
    if span.manifest_digest != request.manifest_digest:
        raise AssignmentError(f"this node has other weights of {request.model_id}: the manifests' digests differ")
    if request.num_stages > span.num_layers:
        raise InvalidRequestError(f"{request.num_stages} stages are more than {span.num_layers} layers can have")
    return span


def check_epoch(request: OpenRequest, entry: StageSession | None, closed_epoch: int) -> None:
    """Fence: who was overtaken by a later epoch, on this node or on its way to it, opens nothing.

    Args:
        request: what is asked for.
        entry: the session, if it is open.
        closed_epoch: the one in which it was closed last; 0 if it is not known to have been.

    Raises:
        AssignmentError: if the session is open, and `request` is no resumption in a later epoch; or if it was closed in
            a later one.
    """
    name = f"session {request.session:016x}"
    if entry is None:
        if request.epoch < closed_epoch:
            raise AssignmentError(
                f"{name} was closed in epoch {closed_epoch}: epoch {request.epoch} has been overtaken"
            )
        return
    if not request.resume:
        raise AssignmentError(f"{name} is already open on this node")
    if request.epoch <= entry.epoch:
        raise AssignmentError(f"{name} is in epoch {entry.epoch} on this node: {request.epoch} has been overtaken")
