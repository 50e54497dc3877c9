"""What was believed before, so that nothing older is believed again. The H numbers are clauses of docs/manifest.md."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from osai.core.errors import ManifestError, TrustError
from osai.core.manifest.encode import canonical
from osai.core.manifest.entries import SignedManifest
from osai.core.manifest.key_list import KnownList, check_keys
from osai.core.manifest.names import is_plain_name
from osai.core.manifest.policy import TrustPolicy
from osai.core.manifest.rotation import current_lists
from osai.core.safetensors_header import MAX_INT
from osai.core.strict_json import Fields, bytes_of, fields_of, list_of, read_json

MEMORY_FORMAT = 1
MAX_MODELS = 10_000
MAX_PUBLISHERS = 1000
MAX_MEMORY_BYTES = 8 * 2**20  # of both at their limits
_NUM_BYTES = 32  # of a digest, and of a key
_MANIFEST: Fields = {"version": int, "digest": str}
_LIST: Fields = {"version": int, "digest": str, "keys": list, "threshold": int}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownManifest:
    """The newest manifest of a model that was believed."""

    version: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustMemory:
    """The newest manifests and key lists that were believed (H1).

    Attributes:
        models: by model id.
        publishers: by publisher, its key list.
    """

    models: Mapping[str, KnownManifest] = field(default_factory=dict)
    publishers: Mapping[str, KnownList] = field(default_factory=dict)

    def refuse_rollback(self, signed: SignedManifest) -> None:
        """Refuse a manifest that an earlier one has replaced (H2).

        Raises:
            ManifestError: if it is older, or of the same version and says something else.
        """
        manifest = signed.manifest
        known = self.models.get(manifest.model_id)
        if known is None or manifest.version > known.version:
            return
        what = f"version {manifest.version} of the manifest of {manifest.model_id}"
        if manifest.version < known.version:
            raise ManifestError(
                f"{what} is older than version {known.version}, which was believed before: get the newest one from the "
                "publisher, who may sign old weights anew under a higher version",
                subject=manifest.model_id,
            )
        if signed.digest != known.digest:
            raise ManifestError(
                f"{what} is another one than was believed before ({signed.digest.hex()[:16]}, not "
                f"{known.digest.hex()[:16]}): the publisher must sign it under a higher version",
                subject=manifest.model_id,
            )

    def remembering(self, signed: SignedManifest, trust: TrustPolicy) -> Self:
        """The memory after `verify` has accepted a manifest under `trust`.

        Raises:
            TrustError: if it is full.
        """
        manifest = signed.manifest
        models = {**self.models, manifest.model_id: KnownManifest(version=manifest.version, digest=signed.digest)}
        current = current_lists(trust.key_lists, self.publishers)
        publishers = {**self.publishers, **{each.listed.publisher: KnownList.of(each) for each in current}}
        if len(models) > MAX_MODELS or len(publishers) > MAX_PUBLISHERS:  # H4
            raise TrustError(f"{MAX_MODELS} models and {MAX_PUBLISHERS} publishers are all that is remembered")
        return type(self)(models=models, publishers=publishers)

    def to_json(self) -> bytes:
        """As the file that `from_json` reads."""
        models = {name: {"version": known.version, "digest": known.digest.hex()} for name, known in self.models.items()}
        publishers = {
            name: dataclasses.asdict(known) | {"digest": known.digest.hex(), "keys": [key.hex() for key in known.keys]}
            for name, known in self.publishers.items()
        }
        return canonical({"format": MEMORY_FORMAT, "models": models, "publishers": publishers}) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read a file (H4).

        Raises:
            TrustError: if it is damaged, oversized, or of another format.
        """
        top = fields_of(
            "memory", read_json("memory", data, MAX_MEMORY_BYTES), {"format": int, "models": dict, "publishers": dict}
        )
        if top["format"] != MEMORY_FORMAT:
            raise TrustError(f"its format {top['format']} is unknown (this release reads {MEMORY_FORMAT})")
        for name, limit in {"models": MAX_MODELS, "publishers": MAX_PUBLISHERS}.items():
            if len(top[name]) > limit or not all(is_plain_name(key) for key in top[name]):
                raise TrustError(f"{name}: over the limit of {limit}, or names that are none")
        return cls(
            models={name: _manifest(value) for name, value in top["models"].items()},
            publishers={name: _list(value) for name, value in top["publishers"].items()},
        )


def _manifest(value: object) -> KnownManifest:
    fields = fields_of("model", value, _MANIFEST)
    return KnownManifest(version=_version(fields["version"]), digest=bytes_of("digest", fields["digest"], _NUM_BYTES))


def _list(value: object) -> KnownList:
    fields = fields_of("publisher", value, _LIST)
    keys = tuple(bytes_of("key", text, _NUM_BYTES) for text in list_of(str, "keys", fields["keys"]))
    check_keys(keys, fields["threshold"])
    return KnownList(
        version=_version(fields["version"]),
        digest=bytes_of("digest", fields["digest"], _NUM_BYTES),
        keys=keys,
        threshold=fields["threshold"],
    )


def _version(version: int) -> int:
    if not 1 <= version <= MAX_INT:
        raise TrustError("a version is not 1 or more")
    return version
