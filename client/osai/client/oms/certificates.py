"""Whether signing certificates hold at a moment.

The library judges a certificate by the moment at which it began to be valid, so that it accepts one that has expired.
A signature without a trusted time stamp does not show that it was made before: whoever gets hold of an old key could
sign today. osai therefore asks for certificates that hold now, unless it is told otherwise.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from osai.client.oms.library import failing_as, load
from osai.core.errors import ManifestError, SetupError


def read_chain(paths: Sequence[Path]) -> tuple[bytes, ...]:
    """The certificates of some PEM files, in DER.

    Raises:
        SetupError: if one can't be read or holds none.
    """
    from cryptography import x509  # noqa: PLC0415 - takes 40 ms, which no other command needs
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    found: list[bytes] = []
    for path in paths:
        with failing_as(SetupError, f"--certificate-chain {path}", "name a file of certificates in PEM form"):
            read = x509.load_pem_x509_certificates(path.read_bytes())
            found += [certificate.public_bytes(Encoding.DER) for certificate in read]
    return tuple(found)


def refuse_expired(certificates: Sequence[bytes], trusted: Sequence[bytes], now: datetime) -> None:
    """Refuse a signing certificate whose chain does not hold at `now`.

    Args:
        certificates: in DER, the signing one first, then intermediates that the signature carries.
        trusted: what the user trusts, in DER.
        now: with its time zone.

    Raises:
        ManifestError: saying which, and until when it was valid.
    """
    from cryptography import x509  # noqa: PLC0415

    crypto = load("OpenSSL.crypto")
    with failing_as(
        ManifestError, "the signing certificate is malformed", "get the signature from the publisher again"
    ):
        signer, *between = [x509.load_der_x509_certificate(der) for der in certificates]
        store = crypto.X509Store()
        for der in trusted:
            store.add_cert(crypto.X509.from_cryptography(x509.load_der_x509_certificate(der)))
        store.set_time(now)
        carried = [crypto.X509.from_cryptography(certificate) for certificate in between]
        try:
            crypto.X509StoreContext(store, crypto.X509.from_cryptography(signer), carried).verify_certificate()
        except crypto.X509StoreContextError as e:
            raise ManifestError(
                f"the signing certificate {signer.subject.rfc4514_string()!r}, valid from "
                f"{signer.not_valid_before_utc.date()} to {signer.not_valid_after_utc.date()}, or its chain does not "
                f"hold now: {e}. Ask the publisher for a new signature; if you are sure that this one was made in "
                "time, say --allow-expired"
            ) from e
