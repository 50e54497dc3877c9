"""The models that this coordinator serves: manifest, facts, tokenizer."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from osai.coordinator.api import ChatMessage, Tool
from osai.coordinator.grammar_check import GrammarCheck
from osai.coordinator.placing.placement import ModelSize
from osai.coordinator.text import Tokenizer
from osai.core.errors import ManifestError, SetupError, UnknownModelError, WeightsError
from osai.core.manifest import (
    MANIFEST_FILE,
    Manifest,
    SignedManifest,
    TrustPolicy,
    chunk_digests,
    is_text,
    parse,
)
from osai.core.manifest.names import TEMPLATES_FOLDER
from osai.core.manifest.select import select_files
from osai.core.model import ModelFacts
from osai.core.precision import Precision
from osai.core.trust_files import verify_and_remember

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model.

    Attributes:
        manifest: as it was read, and passed on to the nodes.
        signed: whether a trusted key has signed it.
        source: where nodes may find the weights, besides where they were told to look; a hub id or empty.
        check_grammar: checks grammars for it; None: its tails alone do.
    """

    manifest: SignedManifest
    manifest_file: bytes
    signed: bool
    facts: ModelFacts
    tokenizer: Tokenizer
    source: str
    check_grammar: GrammarCheck | None = None

    @property
    def model_id(self) -> str:
        """The id under which clients ask for it."""
        return self.manifest.manifest.model_id

    def encode(
        self, prompt: str | tuple[int, ...] | tuple[ChatMessage, ...], tools: tuple[Tool, ...] = ()
    ) -> tuple[int, ...]:
        """Token ids of a prompt, whatever its form; `tools` are for a chat.

        Raises:
            InvalidRequestError: if the model has no chat template, or the chat or the tools do not fit it.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        chat = [part for part in prompt if isinstance(part, ChatMessage)]
        return self.tokenizer.encode(chat, tools) if chat else tuple(part for part in prompt if isinstance(part, int))

    def size(self, precision: Precision) -> ModelSize:
        """What its parts take on a node that runs in `precision`: weights as it holds them, KV in its dtype."""
        manifest = self.manifest.manifest
        item_bytes = precision.item_bytes(_checkpoint_item_bytes(manifest))
        layer_bytes = [self.facts.max_kv_numbers * item_bytes * self.facts.max_context] * self.facts.num_layers
        outer_bytes = 0
        for entry in manifest.tensors:
            num_bytes = precision.tensor_bytes(entry.name, entry.shape, item_bytes)
            if entry.layer is None:
                outer_bytes += num_bytes if is_text(entry.name) else 0
            elif entry.layer < len(layer_bytes):  # further ones are of multi-token prediction
                layer_bytes[entry.layer] += num_bytes
        return ModelSize(layer_bytes=tuple(layer_bytes), head_bytes=outer_bytes, tail_bytes=outer_bytes)


def _checkpoint_item_bytes(manifest: Manifest) -> int:
    sizes = {"F32": 4, "BF16": 2, "F16": 2}
    return next((sizes[entry.dtype] for entry in manifest.tensors if entry.dtype in sizes), 2)


class Catalog:
    """Models by id."""

    def __init__(self, models: list[ServedModel]) -> None:
        self._models: dict[str, ServedModel] = {}
        for model in models:
            if model.model_id in self._models:
                raise SetupError(f"two models are called {model.model_id}; serve one of them")
            self._models[model.model_id] = model

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """Every model, in the order given."""
        return tuple(self._models.values())

    def get(self, model_id: str) -> ServedModel:
        """The model of that id; an empty id means the only one.

        Raises:
            UnknownModelError: if there is none.
        """
        if not model_id and len(self._models) == 1:
            return next(iter(self._models.values()))
        try:
            return self._models[model_id]
        except KeyError:
            served = ", ".join(self._models) or "none"
            asked = f"model {model_id!r} is not served here" if model_id else "name a model"
            raise UnknownModelError(f"{asked}; served are: {served}") from None


def load_model(
    folder: Path, manifest_path: Path | None, trust: TrustPolicy, *, allow_unsigned: bool, state_dir: Path
) -> ServedModel:
    """Read and verify what a coordinator needs of a model: no weights. `state_dir` remembers what was believed.

    Raises:
        ManifestError: if the manifest is missing or not to be believed.
        SetupError: if what was believed before can't be read or written.
        WeightsError: if a file is missing, differs from the manifest, is not listed there, or makes no sense.
    """
    path = manifest_path or folder / MANIFEST_FILE
    try:
        manifest_file = path.read_bytes()
    except OSError as e:
        raise ManifestError(
            f"{path} can't be read ({e.strerror}); make one with `osai manifest create {folder} --key K --model-id ID`"
        ) from e
    signed = parse(manifest_file)
    trusted = _is_trusted(signed, trust, allow_unsigned=allow_unsigned, state_dir=state_dir)
    _verify_files(folder, signed.manifest)
    generation = folder / "generation_config.json"
    facts = ModelFacts.from_config(
        _read_json(folder / "config.json"), _read_json(generation) if generation.exists() else None
    )
    layer_bytes = signed.manifest.layer_bytes()[: facts.num_layers]
    if len(layer_bytes) < facts.num_layers or not all(layer_bytes):
        raise WeightsError(
            f"config.json of {signed.manifest.model_id} says {facts.num_layers} layers, but the manifest lacks tensors "
            "of some: is the checkpoint complete?",
            subject="config.json",
        )
    return ServedModel(
        manifest=signed,
        manifest_file=manifest_file,
        signed=trusted,
        facts=facts,
        tokenizer=Tokenizer(folder),
        source="",
        check_grammar=GrammarCheck(folder / "tokenizer.json", facts.eos_token_ids),
    )


def _is_trusted(signed: SignedManifest, trust: TrustPolicy, *, allow_unsigned: bool, state_dir: Path) -> bool:
    try:
        verify_and_remember(signed, trust, state_dir, now_s=time.time())
    except ManifestError as e:
        if not allow_unsigned:
            raise
        log.warning("UNVERIFIED MODEL: %s; going on because of --allow-unsigned", e)
        return False
    return True


def _verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare config and tokenizer with the manifest; they are small, so they are read once for this alone."""
    listed = {entry.path for entry in manifest.files}
    if "config.json" not in listed:
        raise ManifestError(f"the manifest of {manifest.model_id} does not list config.json; create it anew")
    here = [path.relative_to(folder).as_posix() for path in (*folder.glob("*"), *folder.glob(f"{TEMPLATES_FOLDER}/*"))]
    for name in select_files(here):
        if name not in listed:  # the tokenizer reads whatever lies there
            raise WeightsError(f"{name} is not in the manifest; remove it, or make a new manifest", subject=name)
    for entry in manifest.files:
        try:
            data = (folder / entry.path).read_bytes()
        except OSError as e:
            raise WeightsError(f"{folder / entry.path} can't be read: {e.strerror}", subject=entry.path) from e
        digests = chunk_digests(data, manifest.chunk_bytes) if entry.chunks else ()
        if len(data) != entry.size_bytes or digests != entry.chunks:
            raise WeightsError(f"{folder / entry.path} differs from the manifest", subject=entry.path)


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as e:
        raise WeightsError(f"{path} is no JSON: {e}", subject=path.name) from e
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds no JSON object", subject=path.name)
    return value
