"""Whose OMS signature is accepted. Pure."""

from dataclasses import dataclass
from pathlib import Path

from osai.core.errors import SetupError


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAuthority:
    """The holder of the private key of `public_key`: a PEM of a P-256, P-384 or P-521 key."""

    public_key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateAuthority:
    """Whoever holds a signing certificate under one of the roots in `chain`.

    Attributes:
        chain: PEM files: the roots, and intermediates that the signature does not carry.
        allow_expired: accept certificates that were valid when they were issued, as the library does.
    """

    chain: tuple[Path, ...]
    allow_expired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SigstoreAuthority:
    """Who showed `provider` that they are `identity`.

    Attributes:
        identity: an e-mail address, or a workflow's address.
        provider: address of the OpenID Connect issuer.
        trust_config: Sigstore's client trust configuration; None has the library fetch the public instance's.
    """

    identity: str
    provider: str
    trust_config: Path | None = None


Authority = KeyAuthority | CertificateAuthority | SigstoreAuthority


def choose_authority(
    *,
    public_key: Path | None,
    chain: tuple[Path, ...],
    allow_expired: bool,
    identity: str | None,
    provider: str | None,
    trust_config: Path | None,
) -> Authority:
    """The authority that a command's options name.

    Raises:
        SetupError: if they name none, more than one, or half of one.
    """
    by_sigstore = bool(identity or provider or trust_config)
    # Never the web's roots: under them, whoever has a web server's certificate could sign.
    if bool(public_key) + bool(chain) + by_sigstore != 1:
        raise SetupError(
            "say whose signature is accepted, in one way: --public-key FILE, or --certificate-chain FILE, or "
            "--sigstore-identity WHO with --identity-provider ADDRESS"
        )
    if allow_expired and not chain:
        raise SetupError("--allow-expired is about certificates: it goes with --certificate-chain alone")
    if public_key:
        return KeyAuthority(public_key=public_key)
    if chain:
        return CertificateAuthority(chain=chain, allow_expired=allow_expired)
    if not identity or not provider:
        raise SetupError(
            "--sigstore-identity WHO and --identity-provider ADDRESS go together: anyone can sign by Sigstore"
        )
    return SigstoreAuthority(identity=identity, provider=provider, trust_config=trust_config)
