"""The model that comes with osai: small enough to try a swarm on any machine."""

from pathlib import Path

MODEL_ID = "osai/shakespeare"


def model_dir() -> Path:
    """Folder of the checkpoint, with its signed manifest."""
    return Path(__file__).parent / "shakespeare"


def publisher_key_file() -> Path:
    """The public key that signs the embedded model's manifest; pinned for this model alone."""
    return Path(__file__).parent / "publisher.pub"
