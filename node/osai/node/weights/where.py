"""Where a model's weights are to be read from, besides from other nodes."""

import re
from collections.abc import Sequence
from pathlib import Path

from osai.core.embedded import MODEL_ID, model_dir
from osai.core.errors import WeightsError
from osai.node.config import Wish
from osai.node.weights.source import open_source
from osai.node.weights.spread import Origin


def find_origin(wishes: Sequence[Wish], model_id: str, source: str) -> Origin:
    """Open what the node's operator has named, or else what a coordinator says. It may reach out: for a thread.

    Args:
        wishes: of the operator.
        model_id: of the model.
        source: what the coordinator says: a hub id, or nothing.

    Raises:
        SetupError: if the operator has named what is no source.
    """
    try:
        return Origin(source=open_source(_named(wishes, model_id, source)))
    except WeightsError as e:  # other nodes may have them all the same
        return Origin(source=None, absent=e.message)


def _named(wishes: Sequence[Wish], model_id: str, source: str) -> str:
    for wish in wishes:
        if wish.weights and wish.model_id in ("", model_id):
            return wish.weights
    if model_id == MODEL_ID:
        return str(model_dir())
    # a peer may name a hub id, but no path or URL of this machine's network
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).exists():
        return source
    raise WeightsError(f"it is not known here where the weights of {model_id} are")
