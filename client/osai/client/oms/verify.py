"""Verifying a whole folder against its OMS signature, by the library."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from osai.client.oms.authority import Authority, CertificateAuthority, KeyAuthority, SigstoreAuthority
from osai.client.oms.bundle import MAX_SIGNATURE_BYTES, Bundle, parse_bundle
from osai.client.oms.certificates import read_chain, refuse_expired
from osai.client.oms.library import failing_as, hashing_config, ignored_paths, load
from osai.core.errors import ManifestError, SetupError, WeightsError
from osai.core.manifest import MANIFEST_FILE

_ELSEWHERE = "get the signature from the publisher again, or check whose signature you accept"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedFolder:
    """What an OMS signature vouches for.

    Attributes:
        digests: SHA-256 in hex of each file that it lists, by the path relative to the folder. When the folder was
            verified it held these files, and no other that the signature does not ignore.
        left_out: files of the folder that it does not vouch for, sorted, beside itself and the osai manifest.
    """

    digests: Mapping[str, str]
    left_out: tuple[str, ...]


def verify_oms(
    folder: Path, signature: Path, authority: Authority, *, now: datetime, allow_symlinks: bool = False
) -> VerifiedFolder:
    """Verify a folder whole: the signature first, then every file.

    osai-manifest.json is ignored unless the signature lists it: it has a signature of its own.

    Args:
        folder: the model's.
        signature: usually its model.sig.
        authority: whose signature is accepted.
        now: for certificates, with its time zone.
        allow_symlinks: take what links point at for the file, as in a folder of the Hugging Face cache.

    Raises:
        SetupError: if the extra `oms` is not installed, or the signature, a key or certificates can't be read.
        ManifestError: if the signature is damaged, or none that the authority made.
        WeightsError: if the folder is not what was signed.
    """
    config = _verifier(authority)
    data = _read_signature(signature)
    bundle = parse_bundle(data, by_sigstore=isinstance(authority, SigstoreAuthority))
    ignored = ignored_paths(folder, signature, osai_manifest=MANIFEST_FILE not in bundle.listed)
    hashing = _WatchedHashing(
        config=hashing_config(ignored, allow_symlinks=allow_symlinks), check=_time_check(authority, bundle, now)
    )
    with TemporaryDirectory(prefix="osai-oms-") as private:  # the library reads the very bytes that were parsed here
        copy = Path(private) / "signature"
        copy.write_bytes(data)
        _verify(config.set_hashing_config(hashing), hashing, folder, copy, bundle)
    digests = hashing.digests()
    if not digests:
        raise ManifestError("the signature lists no file, so it vouches for nothing; ask the publisher for another")
    return VerifiedFolder(digests=digests, left_out=_left_out(folder, {*digests, *ignored}))


@dataclass(slots=True, kw_only=True)
class _WatchedHashing:
    """Stands in for the library's hashing configuration: tells when the signature was found good, and what was hashed.

    The library hashes only after the signature was verified, and returns only if what was hashed is what was signed.
    """

    config: Any
    check: Callable[[], None]
    began: bool = False
    found: Any = field(default=None)

    def add_ignored_paths(self, *, model_path: Path, paths: Iterable[str]) -> None:
        """The library hands on what the signature ignores."""
        self.config.add_ignored_paths(model_path=model_path, paths=paths)

    def hash(self, model_path: Path, *, files_to_hash: Iterable[Path] | None = None) -> Any:  # noqa: ANN401 - the library's
        """Hash the folder."""
        self.check()
        self.began = True
        self.found = self.config.hash(model_path, files_to_hash=files_to_hash)
        return self.found

    def digests(self) -> dict[str, str]:
        """What was hashed: SHA-256 in hex by path."""
        return {item.identifier: item.digest.digest_hex for item in self.found.resource_descriptors()}


def _verify(config: Any, hashing: _WatchedHashing, folder: Path, signature: Path, bundle: Bundle) -> None:  # noqa: ANN401 - the library's
    with failing_as(ManifestError, "the OMS signature is not accepted", _ELSEWHERE):
        try:
            config.verify(folder, signature)
        except (ValueError, OSError) as e:
            if not hashing.began:
                raise
            if hashing.found is None:
                advice = "make its files readable; --allow-symlinks has links followed"
                raise WeightsError(f"can't read {folder} whole: {e}; {advice}") from e
            raise _difference(folder, bundle.listed, hashing.digests()) from e


def _difference(folder: Path, signed: Mapping[str, str], found: Mapping[str, str]) -> WeightsError:
    """Names one file by which the folder is not what was signed."""
    for path in sorted(signed.keys() | found.keys()):
        if path not in found:
            return WeightsError(f"{path} is missing from {folder}, though it was signed; fetch it again", subject=path)
        if path not in signed:
            return WeightsError(f"{path} is in {folder}, but was not signed; remove it", subject=path)
        if signed[path] != found[path]:
            return WeightsError(f"{path} differs from what was signed; fetch it again", subject=path)
    return WeightsError(f"{folder} is not what was signed; fetch the model again")


def _verifier(authority: Authority) -> Any:  # noqa: ANN401 - the library's
    config = load("model_signing.verifying").Config()
    match authority:
        case KeyAuthority(public_key=path):
            with failing_as(SetupError, f"--public-key {path}", "name a P-256, P-384 or P-521 public key in PEM form"):
                return config.use_elliptic_key_verifier(public_key=path)
        case CertificateAuthority(chain=chain):
            read_chain(chain)  # says which file is wrong
            with failing_as(SetupError, "--certificate-chain", "name files of certificates in PEM form"):
                return config.use_certificate_verifier(certificate_chain=chain)
        case SigstoreAuthority():
            with failing_as(
                SetupError,
                "can't get Sigstore's trust root",
                "this needs the network, or a client trust configuration: --sigstore-trust-config FILE",
            ):
                return config.use_sigstore_verifier(
                    identity=authority.identity, oidc_issuer=authority.provider, trust_config=authority.trust_config
                )


def _time_check(authority: Authority, bundle: Bundle, now: datetime) -> Callable[[], None]:
    if isinstance(authority, CertificateAuthority) and not authority.allow_expired:
        return partial(refuse_expired, bundle.certificates, read_chain(authority.chain), now)
    return lambda: None


def _read_signature(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIGNATURE_BYTES + 1)
    except OSError as e:
        raise SetupError(f"can't read the signature {path}: {e.strerror}; name it with --signature") from e
    if len(data) > MAX_SIGNATURE_BYTES:
        raise ManifestError(f"{path} is over the limit of {MAX_SIGNATURE_BYTES} bytes of a signature")
    return data


def _left_out(folder: Path, known: set[str]) -> tuple[str, ...]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return tuple(sorted({path.relative_to(folder).as_posix() for path in paths} - known))
