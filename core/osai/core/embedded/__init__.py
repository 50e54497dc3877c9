"""The small model to try a swarm with. Its files are a distribution of their own; its key comes with osai.

So the thin wheel stays thin, and what is installed beside it can't say by whose key it is to be believed.
"""

from importlib.util import find_spec
from pathlib import Path

from osai.core.errors import WeightsError

MODEL_ID = "osai/shakespeare"
DISTRIBUTION = "osai-embedded"
_PACKAGE = "osai.embedded"


def find_model_dir() -> Path | None:
    """Folder of the checkpoint, with its signed manifest; None where it is not installed."""
    spec = find_spec(_PACKAGE)
    folders = (Path(place) / "shakespeare" for place in (spec and spec.submodule_search_locations) or ())
    return next((folder for folder in folders if folder.is_dir()), None)


def model_dir() -> Path:
    """Folder of the checkpoint, with its signed manifest.

    Raises:
        WeightsError: if it is not installed.
    """
    folder = find_model_dir()
    if folder is None:
        raise WeightsError(
            f"the small model {MODEL_ID} is not installed: `pip install {DISTRIBUTION}` "
            "(in a source tree: `pip install ./core/embedded_model`), or name the folder of another model"
        )
    return folder


def publisher_key_file() -> Path:
    """The public key that signs the embedded model's manifest; pinned for this model alone."""
    return Path(__file__).parent / "publisher.pub"
