"""Which files of a folder or repository are the checkpoint, and what their headers make of it."""

import json
from collections.abc import Collection, Mapping

from osai.core.errors import WeightsError
from osai.core.manifest.entries import TensorEntry
from osai.core.manifest.names import is_pickle, is_serving_file, is_weight_file, layer_of
from osai.core.safetensors_header import TensorSpan

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 * 2**20  # an index of 100,000 tensors takes 10 MB

Shards = Mapping[str, frozenset[str]]
"""Safetensors files of a checkpoint, and the tensors that the index promises of each."""


def select_files(paths: Collection[str]) -> tuple[str, ...]:
    """The files beside the weights that serving needs, sorted."""
    return tuple(sorted(path for path in paths if is_serving_file(path)))


def select_shards(paths: Collection[str], index: bytes | None) -> Shards:
    """The checkpoint's safetensors files (M13), chosen in transformers' order: one file, the index's, all at the top.

    Args:
        paths: every file there is, relative, `/` between components.
        index: content of INDEX_FILE, None where there is none.

    Raises:
        WeightsError: if a shard that the index names is missing, there are only pickles, or no weights at all.
    """
    if SINGLE_FILE in paths:
        return {SINGLE_FILE: frozenset()}
    if index is not None:
        return _indexed(paths, index)
    shards = sorted(path for path in paths if is_weight_file(path) and "/" not in path)
    if not shards:
        refuse_pickles(paths)
        raise WeightsError("no weights found: no *.safetensors file; is this a checkpoint's folder?")
    return dict.fromkeys(shards, frozenset())


def refuse_pickles(paths: Collection[str]) -> None:
    """Refuse a folder that holds pickled weights (M14).

    Raises:
        WeightsError: naming one of them.
    """
    pickles = sorted(path for path in paths if is_pickle(path) and "/" not in path)
    if pickles:
        raise WeightsError(
            f"{pickles[0]} holds pickled weights, which can run code when they are read: only safetensors are read. "
            "Convert the weights with save_pretrained(), then remove the file",
            subject=pickles[0],
        )


def _indexed(paths: Collection[str], index: bytes) -> Shards:
    try:
        weight_map = json.loads(index.decode())["weight_map"]
        by_shard: dict[str, set[str]] = {}
        for name, shard in weight_map.items():
            by_shard.setdefault(shard, set()).add(name)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as e:
        raise WeightsError(f"{INDEX_FILE} is no index of shards; fetch it again", subject=INDEX_FILE) from e
    for shard in sorted(by_shard, key=str):
        if not isinstance(shard, str) or not is_weight_file(shard):
            raise WeightsError(f"{INDEX_FILE} names {shard!r}, no safetensors file", subject=INDEX_FILE)
        if shard not in paths:
            raise WeightsError(f"shard {shard} is missing, though {INDEX_FILE} names it; fetch it", subject=shard)
    if not by_shard:
        raise WeightsError(f"no weights found: {INDEX_FILE} names no shard", subject=INDEX_FILE)
    return {shard: frozenset(names) for shard, names in sorted(by_shard.items())}


def tensor_entries(shards: Shards, headers: Mapping[str, Mapping[str, TensorSpan]]) -> tuple[TensorEntry, ...]:
    """Entries without digests, by file and offset.

    Raises:
        WeightsError: if a shard lacks a tensor that the index promises, or two shards hold the same one.
    """
    entries: dict[str, TensorEntry] = {}
    for shard, promised in shards.items():
        spans = headers[shard]
        for name in sorted(promised - spans.keys())[:1]:
            raise WeightsError(f"shard {shard} lacks tensor {name}, which {INDEX_FILE} promises", subject=shard)
        for name, span in sorted(spans.items(), key=lambda item: (item[1].begin, item[1].end)):
            if name in entries:
                raise WeightsError(f"tensor {name} is in {entries[name].file} and in {shard}; remove one", subject=name)
            entries[name] = TensorEntry(
                name=name, file=shard, begin=span.begin, end=span.end, dtype=span.dtype, shape=span.shape,
                layer=layer_of(name), chunks=(),
            )  # fmt: skip
    return tuple(entries.values())
