"""Keys, certificates and a folder to sign in the OMS format, and the stock `model_signing` command."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from osai.client.cli import main

CURVES: dict[str, type[ec.EllipticCurve]] = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}
KINDS = (*CURVES, *(f"certificate-{curve}" for curve in CURVES))
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
YEAR = timedelta(days=365)


def write_checkpoint(folder: Path) -> Path:
    """Two shards with an index, config, tokenizer, a nested chat template, a model card, and a file of no use."""
    (folder / "additional_chat_templates").mkdir(parents=True)
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Small\n")
    (folder / "paper.pdf").write_bytes(bytes(1000))
    weight_map = {}
    for shard in range(2):
        name, file = f"model.layers.{shard}.mlp.up_proj.weight", f"model-0000{shard + 1}-of-00002.safetensors"
        weight_map[name] = file
        write_shard(folder / file, {name: bytes(range(shard, 64 + shard))})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_shard(path: Path, tensors: dict[str, bytes]) -> None:
    header, data = {}, b""
    for name, content in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Someone who signs, and what others need to check it.

    Attributes:
        key: the private key's file.
        accept: the public key, or the root's certificate.
        certificate: the signing one; None for a bare key.
        between: the intermediate's certificate.
    """

    key: Path
    accept: Path
    certificate: Path | None = None
    between: Path | None = None

    def stock_sign(self, folder: Path, signature: Path) -> subprocess.CompletedProcess[str]:
        options: tuple[str | Path, ...] = ("--private_key", self.key)
        if self.certificate is not None:
            options += ("--signing_certificate", self.certificate)
            options += ("--certificate_chain", self.between) if self.between else ()
        return stock("sign", self._method, folder, "--signature", signature, *options)

    def stock_verify(self, folder: Path, signature: Path, *further: str | Path) -> subprocess.CompletedProcess[str]:
        option = "--certificate_chain" if self.certificate else "--public_key"
        return stock("verify", self._method, folder, "--signature", signature, option, self.accept, *further)

    def signs_with(self) -> tuple[str | Path, ...]:
        """Options of `osai oms sign`."""
        if self.certificate is None:
            return ("--key", self.key)
        chain = ("--certificate-chain", self.between) if self.between else ()
        return ("--key", self.key, "--certificate", self.certificate, *chain)

    def accepted_by(self) -> tuple[str | Path, ...]:
        """Options of `osai oms verify` and `countersign`."""
        return ("--certificate-chain" if self.certificate else "--public-key", self.accept)

    @property
    def _method(self) -> str:
        return "certificate" if self.certificate else "key"


def stock(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The library's own command, in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)


def oms(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["oms", *map(str, arguments)])


def succeed(*arguments: str | Path) -> str:
    result = oms(*arguments)
    assert result.exit_code == 0, result.output
    assert not result.stderr
    return result.stdout


def refuse(*arguments: str | Path) -> str:
    result = oms(*arguments)
    assert result.exit_code == 1, result.output
    assert not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def make_party(folder: Path, kind: str) -> Party:
    """One of KINDS, in a new folder."""
    folder.mkdir(parents=True)
    curve = CURVES[kind.removeprefix("certificate-")]
    if kind.startswith("certificate-"):
        return certified(folder, Root.make(folder), curve=curve)
    key = ec.generate_private_key(curve())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Party(key=write_key(folder / "ec.pem", key), accept=write(folder / "ec.pub", public))


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A self-signed authority."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    file: Path

    @classmethod
    def make(cls, folder: Path, begins: datetime = NOW - YEAR, ends: datetime = NOW + YEAR) -> "Root":
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
        certificate = issue("root", key.public_key(), name, key, begins, ends, is_authority=True)
        return cls(key=key, certificate=certificate, file=write(folder / "root.pem", pem(certificate)))


def certified(
    folder: Path,
    root: Root,
    *,
    curve: type[ec.EllipticCurve] = ec.SECP256R1,
    begins: datetime = NOW - DAY,
    ends: datetime = NOW + DAY,
    between_is_authority: bool = True,
    may_sign: bool = True,
) -> Party:
    """A signing certificate below an intermediate below `root`."""
    between_key, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(curve())
    between = issue(
        "between", between_key.public_key(), root.certificate.subject, root.key,
        root.certificate.not_valid_before_utc, root.certificate.not_valid_after_utc, is_authority=between_is_authority,
    )  # fmt: skip
    leaf = issue("signer", key.public_key(), between.subject, between_key, begins, ends, may_sign=may_sign)
    return Party(
        key=write_key(folder / "signer.key", key),
        accept=root.file,
        certificate=write(folder / "signer.pem", pem(leaf)),
        between=write(folder / "between.pem", pem(between)),
    )


def issue(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    begins: datetime,
    ends: datetime,
    *,
    is_authority: bool = False,
    may_sign: bool = True,
) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=may_sign, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=not may_sign, key_cert_sign=is_authority, crl_sign=is_authority, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (
        (x509.BasicConstraints(ca=is_authority, path_length=None), True),
        (usage, True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    for extension, critical in extensions if not is_authority else extensions[:2]:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    return write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def flip_byte(path: Path, offset: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
