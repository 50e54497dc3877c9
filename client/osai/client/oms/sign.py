"""Signing a folder in the OMS format, by the library."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from osai.client.oms.library import failing_as, hashing_config, ignored_paths, load
from osai.core.errors import SetupError, WeightsError


@dataclass(frozen=True, slots=True, kw_only=True)
class OmsKey:
    """What an OMS signature is made with.

    Attributes:
        private_key: PEM of a P-256, P-384 or P-521 key, not encrypted.
        certificate: PEM of that key's signing certificate; None signs with the bare key.
        chain: PEM files of intermediates, which the signature then carries.
    """

    private_key: Path
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()


def sign_oms(folder: Path, signature: Path, key: OmsKey, *, allow_symlinks: bool = False) -> bytes:
    """Sign every file of a folder, beside git's, the signature itself and osai-manifest.json.

    The manifest is ignored so that it can be made, and made anew, after the OMS signature; its own signature covers it.

    Args:
        folder: the model's.
        signature: where the signature will lie; it is not written.
        key: what to sign with.
        allow_symlinks: sign what links point at.

    Returns:
        The signature file's content.

    Raises:
        SetupError: if the extra `oms` is not installed, or the key or a certificate is none that the format takes.
        WeightsError: if a file can't be read or is a link.
    """
    ignored = ignored_paths(folder, signature, osai_manifest=True)
    config = _signer(key).set_hashing_config(hashing_config(ignored, allow_symlinks=allow_symlinks))
    with (
        TemporaryDirectory(prefix="osai-oms-") as private,
        failing_as(WeightsError, f"can't sign {folder}", "make its files readable; --allow-symlinks follows links"),
    ):
        config.sign(folder, Path(private) / "signature")
        return (Path(private) / "signature").read_bytes()


def _signer(key: OmsKey) -> Any:  # noqa: ANN401 - the library's
    config = load("model_signing.signing").Config()
    advice = (
        "the format takes P-256, P-384 and P-521 keys in PEM form, not encrypted; "
        "`openssl ecparam -name prime256v1 -genkey -noout -out ec.pem` makes one"
    )
    if key.certificate is None:
        with failing_as(SetupError, f"--key {key.private_key}", advice):
            return config.use_elliptic_key_signer(private_key=key.private_key)
    with failing_as(SetupError, f"--key {key.private_key} with --certificate {key.certificate}", advice):
        return config.use_certificate_signer(
            private_key=key.private_key, signing_certificate=key.certificate, certificate_chain=key.chain
        )
