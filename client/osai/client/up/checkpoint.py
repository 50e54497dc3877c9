"""The model of a local swarm: which folder, which manifest, whose key."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from osai.client.signing import build_manifest
from osai.core.embedded import find_model_dir, model_dir, publisher_key_file
from osai.core.errors import SetupError, WeightsError
from osai.core.identity import Identity
from osai.core.manifest import MANIFEST_FILE, parse, public_key_pem, sign
from osai.core.model import ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model that is ready to be served.

    Attributes:
        manifest: file of the signed manifest where it does not lie in the folder.
        trust: file of the public key that signed it.
        signed_here: whether it was unsigned, and signed for this swarm alone.
    """

    model_id: str
    folder: Path
    num_layers: int
    manifest: Path | None
    trust: Path
    signed_here: bool


def open_checkpoint(
    folder: Path | None, trust: Path | None, scratch: Path, on_bytes: Callable[[int], None] | None = None
) -> Checkpoint:
    """Find out all about a model. Nothing is written into its folder.

    Args:
        folder: of the checkpoint; None for the embedded model.
        trust: its publisher's public key.
        scratch: where manifest and key of an unsigned checkpoint go.
        on_bytes: told of bytes as an unsigned checkpoint is hashed.

    Raises:
        SetupError: if the key is missing, or given for an unsigned checkpoint.
        WeightsError, ManifestError: if the folder is no model that can be served; the embedded one: if it is not there.
    """
    folder = (folder or model_dir()).resolve()
    num_layers = read_facts(folder).num_layers
    manifest = folder / MANIFEST_FILE
    if not manifest.exists():
        if trust is not None:
            raise SetupError(f"{folder} is not signed: sign it with `osai manifest create`, or leave out --trust")
        return _sign_here(folder, num_layers, scratch, on_bytes)
    if trust is None and not _comes_along(folder):
        raise SetupError(f"{folder} is signed: name the public key of its publisher with --trust")
    return Checkpoint(
        model_id=parse(_read(manifest)).manifest.model_id,
        folder=folder,
        num_layers=num_layers,
        manifest=None,
        trust=trust or publisher_key_file(),
        signed_here=False,
    )


def _comes_along(folder: Path) -> bool:
    embedded = find_model_dir()
    return embedded is not None and folder == embedded.resolve()


def _sign_here(folder: Path, num_layers: int, scratch: Path, on_bytes: Callable[[int], None] | None) -> Checkpoint:
    model_id = re.sub(r"[^A-Za-z0-9._-]", "-", folder.name).strip(".-") or "model"  # a manifest allows no others
    identity = Identity.generate()  # used once: nobody keeps the private key
    manifest, trust = scratch / MANIFEST_FILE, scratch / "swarm.pub"
    manifest.write_bytes(sign(build_manifest(folder, model_id, 1, None, on_bytes), identity))
    trust.write_bytes(public_key_pem(identity.public_key))
    return Checkpoint(
        model_id=model_id, folder=folder, num_layers=num_layers, manifest=manifest, trust=trust, signed_here=True
    )


def read_facts(folder: Path) -> ModelFacts:
    """A model's sizes, from its config.json.

    Raises:
        WeightsError: if it can't be read.
    """
    try:
        config = json.loads(_read(folder / "config.json"))
    except ValueError as e:
        raise WeightsError(f"{folder / 'config.json'} is no JSON: {e}") from e
    if not isinstance(config, dict):
        raise WeightsError(f"{folder / 'config.json'} is no JSON object")
    return ModelFacts.from_config(config)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise WeightsError(f"can't read {file} ({e.strerror}): is it a model's folder?") from e
