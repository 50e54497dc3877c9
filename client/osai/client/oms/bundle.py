"""What an OMS signature file says, by the library's own parser, so that both read the same bytes the same way."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from osai.client.oms.library import failing_as, load
from osai.core.errors import ManifestError

MAX_SIGNATURE_BYTES = 64 * 2**20  # a folder of 100,000 files takes about 20 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A signature file, parsed and not verified.

    Attributes:
        listed: the digest in hex of each file, by path, in the statement's own words.
        certificates: in DER, the signing one first; none where it was signed with a bare key.
    """

    listed: Mapping[str, str]
    certificates: tuple[bytes, ...]


def parse_bundle(data: bytes, *, by_sigstore: bool) -> Bundle:
    """Read a signature file.

    Args:
        data: the file.
        by_sigstore: the library reads Sigstore's own signatures by another of its parsers.

    Raises:
        ManifestError: if it is none.
        SetupError: if the extra `oms` is not installed.
    """
    bundle = load("sigstore_models.bundle.v1").Bundle
    with failing_as(ManifestError, "this is no OMS signature", "get it from the publisher again"):
        parsed = bundle.from_json(data) if by_sigstore else bundle.from_dict(_mended(data))
        chain = parsed.verification_material.x509_certificate_chain
        return Bundle(
            listed=_listed(json.loads(parsed.dsse_envelope.payload)),
            certificates=tuple(bytes(certificate.raw_bytes) for certificate in chain.certificates) if chain else (),
        )


def _mended(data: bytes) -> Any:  # noqa: ANN401 - JSON of any kind
    """The file's JSON, with what the library adds to and takes from files of older releases."""
    fields = json.loads(data.decode())
    material = fields["verificationMaterial"]
    material.setdefault("tlogEntries", [])
    if "publicKey" in material:
        material["publicKey"].setdefault("hint", None)
        for field in ("rawBytes", "keyDetails"):
            material["publicKey"].pop(field, None)
    return fields


def _listed(statement: Any) -> dict[str, str]:  # noqa: ANN401 - JSON of any kind
    """Digests of the statement's files; releases before 1.0 listed the files as subjects."""
    resources = (statement.get("predicate") or {}).get("resources")
    if resources is not None:
        return {str(resource["name"]): str(resource["digest"]) for resource in resources}
    return {str(subject["name"]): str(subject["digest"]["sha256"]) for subject in statement["subject"]}
