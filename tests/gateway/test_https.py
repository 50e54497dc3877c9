"""HTTP with a certificate of the operator's own."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from osai.coordinator.gateway.server import HttpServer
from osai.core.errors import SetupError


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.url.scheme)


APP = Starlette(routes=[Route("/", hello)])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    at = tmp_path / "cert.pem", tmp_path / "key.pem"
    at[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    at[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return at


async def test_with_a_certificate_it_speaks_https(files: tuple[Path, Path]) -> None:
    server = HttpServer(APP, host="localhost", port=0, tls=files)
    await server.start()
    try:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(files[0]))
        async with httpx.AsyncClient(verify=context) as client:
            answer = await client.get(f"https://localhost:{server.address[1]}/")
        assert answer.text == "https"
    finally:
        await server.stop()


async def test_a_certificate_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    server = HttpServer(APP, host="localhost", port=0, tls=(tmp_path / "cert.pem", tmp_path / "cert.pem"))
    with pytest.raises(SetupError, match="certificate or key can't be used"):
        await server.start()
