"""A node that is assigned a span: what it refuses before it reads a tensor, and what it remembers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from osai.core.embedded import MODEL_ID, model_dir
from osai.core.errors import ManifestError, OsaiError, SetupError
from osai.core.identity import Identity
from osai.core.layers import LayerRange
from osai.core.manifest import MANIFEST_FILE, Manifest, TrustPolicy, parse, sign
from osai.core.trust_files import MEMORY_FILE, read_memory, read_trust
from osai.node.config import NodeConfig, Wish
from osai.node.device import find_device
from osai.node.hosting import Host
from osai.node.membership import Assigned
from osai.node.weights.spread import Spread

KEY = Identity.generate()
EMBEDDED = (model_dir() / MANIFEST_FILE).read_bytes()


class ReachedEngineError(OsaiError):
    """Everything before was accepted."""


class NoEngine:
    """Takes no span."""

    async def remove_span(self, model_id: str) -> None:
        pass

    async def add_span(self, *arguments: Any) -> None:  # noqa: ANN401
        raise ReachedEngineError("the weights are verified and loaded")


class Noting(Spread):
    """Weights from the source alone; notes which files are to be read."""

    files: tuple[str, ...] = ()

    def loading(self, *arguments: Any) -> Any:  # noqa: ANN401
        self.files = arguments[-1]
        return super().loading(*arguments)


async def load(
    state_dir: Path,
    manifest: bytes,
    *,
    allow_unsigned: bool = False,
    layers: LayerRange | None = None,
    spread: Spread | None = None,
) -> None:
    config = NodeConfig(
        address="", wishes=(Wish(),), listen="", announce="", dht_listen="", state_dir=state_dir,
        trust=read_trust([]) | TrustPolicy.of([KEY.public_key]), allow_unsigned=allow_unsigned, device="cpu",
        dtype="auto", memory_bytes=2**28, num_threads=1, name="node",
    )  # fmt: skip
    engine: Any = NoEngine()
    host = Host(config, find_device("cpu"), engine, lambda *_: None, spread)
    assigned = Assigned(
        assignment_id=1, model_id=MODEL_ID, layers=layers or LayerRange(0, 1), manifest=manifest, source=""
    )  # fmt: skip
    await host.load(assigned)


def changed(**fields: Any) -> bytes:  # noqa: ANN401 - of any field
    manifest: Manifest = replace(parse(EMBEDDED).manifest, **fields)
    return sign(manifest, KEY)


async def test_a_span_is_loaded_and_its_manifest_remembered(tmp_path: Path) -> None:
    with pytest.raises(ReachedEngineError):
        await load(tmp_path, EMBEDDED)
    assert read_memory(tmp_path).models[MODEL_ID].digest == parse(EMBEDDED).digest


async def test_a_tail_is_to_read_the_tokenizer_too(tmp_path: Path) -> None:
    num_layers = 1 + max(entry.layer or 0 for entry in parse(EMBEDDED).manifest.tensors)
    for start, files in ((0, ("config.json",)), (1, ("config.json", "generation_config.json", "tokenizer.json"))):
        spread = Noting("node")
        with pytest.raises(ReachedEngineError):
            await load(tmp_path, EMBEDDED, layers=LayerRange(start, start + num_layers - 1), spread=spread)
        assert spread.files == files


async def test_an_older_manifest_is_refused_after_a_restart(tmp_path: Path) -> None:
    with pytest.raises(ReachedEngineError):
        await load(tmp_path, changed(version=9))
    with pytest.raises(ManifestError, match="older than version 9"):
        await load(tmp_path, EMBEDDED)
    with pytest.raises(ReachedEngineError):  # said, and overruled
        await load(tmp_path, EMBEDDED, allow_unsigned=True)
    assert read_memory(tmp_path).models[MODEL_ID].version == 9


async def test_an_expired_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="has expired on 1970"):
        await load(tmp_path, changed(not_after_s=5))


@pytest.mark.parametrize("allow_unsigned", [True, False])
async def test_a_licence_that_was_not_accepted_is_refused_whoever_signed(tmp_path: Path, allow_unsigned: bool) -> None:
    with pytest.raises(ManifestError, match=r"--accept-licence 'apache-2\.0'"):
        await load(tmp_path, changed(licence_must_accept=True), allow_unsigned=allow_unsigned)


@pytest.mark.parametrize("allow_unsigned", [True, False])
async def test_a_damaged_memory_is_refused_even_where_unsigned_models_are_served(
    tmp_path: Path, allow_unsigned: bool
) -> None:
    (tmp_path / MEMORY_FILE).write_bytes(b"{")
    with pytest.raises(SetupError, match="is damaged"):
        await load(tmp_path, EMBEDDED, allow_unsigned=allow_unsigned)
