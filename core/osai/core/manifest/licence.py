"""Licences that a node's operator must have accepted."""

from osai.core.errors import ManifestError
from osai.core.manifest.entries import Manifest


def refuse_unaccepted(manifest: Manifest, accepted: frozenset[str]) -> None:
    """Refuse to host a model whose licence must be accepted and was not (M18).

    Args:
        manifest: of the model.
        accepted: names of the licences that the operator has accepted.

    Raises:
        ManifestError: naming the licence, and where its words are.
    """
    if manifest.licence_must_accept and manifest.licence not in accepted:
        words = f" Read it at {manifest.licence_url}, then" if manifest.licence_url else " Read it, then"
        raise ManifestError(
            f"{manifest.model_id} may be hosted only by who has accepted its licence, {manifest.licence}.{words} start "
            f"the node with --accept-licence '{manifest.licence}'",
            subject=manifest.model_id,
        )
