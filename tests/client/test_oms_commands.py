"""`osai oms`: its options, the extra that it needs, and damaged files of every kind. Sigstore itself is not reached."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from client.oms_world import Party, make_party, refuse, stock, succeed, write, write_checkpoint
from osai.client.oms.authority import CertificateAuthority, KeyAuthority
from osai.client.oms.bundle import MAX_SIGNATURE_BYTES
from osai.client.oms.verify import verify_oms
from osai.core.errors import ManifestError

ONE_WAY = "say whose signature is accepted, in one way"
IDENTITY = ("--sigstore-identity", "me@example.com", "--identity-provider", "https://accounts.example.com")


@pytest.fixture(scope="module")
def party(tmp_path_factory: pytest.TempPathFactory) -> Party:
    return make_party(tmp_path_factory.mktemp("party") / "p256", "p256")


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Party:
    return make_party(tmp_path_factory.mktemp("party") / "certified", "certificate-p256")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, party: Party, certified: Party) -> Path:
    """A folder that both have signed, beside it; tests leave it as it is."""
    folder = write_checkpoint(tmp_path_factory.mktemp("signed") / "model")
    succeed("sign", folder, *party.signs_with(), "--out", folder.parent / "key.sig")
    succeed("sign", folder, *certified.signs_with(), "--out", folder.parent / "certificate.sig")
    return folder


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), ONE_WAY),
        (("--public-key", "a", "--certificate-chain", "b"), ONE_WAY),
        (("--public-key", "a", *IDENTITY), ONE_WAY),
        (IDENTITY[:2], "go together"),
        (IDENTITY[2:], "go together"),
        (("--sigstore-trust-config", "a"), "go together"),
        (("--public-key", "a", "--allow-expired"), "goes with --certificate-chain alone"),
    ],
)
def test_one_authority_is_named_and_whole(options: tuple[str, ...], said: str, signed: Path, tmp_path: Path) -> None:
    assert said in refuse("verify", signed, "--signature", signed.parent / "key.sig", *options)


def test_what_is_missing_is_named(party: Party, signed: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert f"{none}: can't read" in refuse("verify", signed, "--public-key", none)
    assert f"{none}: can't read" in refuse("verify", signed, "--certificate-chain", none)
    assert "name it with --signature" in refuse("verify", signed, *party.accepted_by())
    assert f"--key {none}" in refuse("sign", signed, "--key", none)
    assert "name the signing certificate too" in refuse("sign", signed, "--key", party.key, "--certificate-chain", none)


def test_keys_that_the_format_does_not_take_are_refused(
    party: Party, certified: Party, signed: Path, tmp_path: Path
) -> None:
    edwards, ecdsa = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    other_curve = ec.generate_private_key(ec.SECP256K1())
    locked = ecdsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    private = [
        edwards.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        other_curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        locked,
        party.accept.read_bytes(),
        b"nothing",
    ]
    public = [
        edwards.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        other_curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        party.key.read_bytes(),
        b"nothing",
    ]
    for data in private:
        assert "P-256, P-384 and P-521" in refuse("sign", signed, "--key", write(tmp_path / "key.pem", data))
    for data in public:
        assert "P-256, P-384 or P-521" in refuse("verify", signed, "--public-key", write(tmp_path / "key.pub", data))
    assert "certificates in PEM form" in refuse("verify", signed, "--certificate-chain", party.accept)
    strange = ("--key", party.key, "--certificate", certified.certificate or "")
    assert "does not match" in refuse("sign", signed, *strange)


def test_a_place_that_cannot_be_written_is_named(party: Party, signed: Path, tmp_path: Path) -> None:
    line = refuse("sign", signed, *party.signs_with(), "--out", tmp_path / "no folder" / "model.sig")
    assert "choose another place with --out" in line


@pytest.mark.parametrize("module", ["model_signing", "OpenSSL"])
def test_without_the_extra_the_commands_say_what_to_install(
    module: str, party: Party, signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in {"model_signing", module}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    for command in (("verify", signed, *party.accepted_by()), ("sign", signed, *party.signs_with())):
        assert "pip install 'osai[oms]'" in refuse(*command)


def test_the_bare_client_imports_nothing_of_the_extra() -> None:
    extra = {"model_signing", "sigstore", "sigstore_models", "OpenSSL"}
    shown = f"sorted({extra} & set(sys.modules)), 'oms' in main.list_commands(None)"
    code = f"import sys; from osai.client.cli import main; print({shown})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (run.stdout, run.stderr) == ("[] True\n", "")


def test_a_signature_that_is_too_large_is_not_read(party: Party, signed: Path, tmp_path: Path) -> None:
    with (tmp_path / "large.sig").open("wb") as file:
        file.truncate(MAX_SIGNATURE_BYTES + 1)
    assert "over the limit" in refuse("verify", signed, "--signature", tmp_path / "large.sig", *party.accepted_by())


def test_a_signature_of_no_file_vouches_for_nothing(party: Party, signed: Path, tmp_path: Path) -> None:
    signature = tmp_path / "model.sig"
    options = ("--private_key", party.key, "--signature", signature, "--ignore-paths", signed)
    assert stock("sign", "key", signed, *options).returncode == 0
    assert party.stock_verify(signed, signature).returncode == 0
    line = refuse("verify", signed, "--signature", signature, *party.accepted_by())
    assert "lists no file" in line


@settings(max_examples=150)
@given(by_key=st.booleans(), place=st.floats(0, 1, exclude_max=True), new=st.binary(max_size=3), cut=st.integers(0, 3))
def test_a_damaged_signature_is_refused_by_type_or_says_the_same(
    by_key: bool, place: float, new: bytes, cut: int, party: Party, certified: Party, signed: Path
) -> None:
    authority = KeyAuthority(public_key=party.accept) if by_key else CertificateAuthority(chain=(certified.accept,))
    good = signed.parent / ("key.sig" if by_key else "certificate.sig")
    data, now = good.read_bytes(), datetime.now(UTC)
    at = int(place * len(data))
    damaged = write(signed.parent / "damaged.sig", data[:at] + new + data[at + cut :])
    try:
        found = verify_oms(signed, damaged, authority, now=now)
    except ManifestError:
        return
    assert found.digests == verify_oms(signed, good, authority, now=now).digests


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    ("mediaType",),
    ("verificationMaterial",),
    ("verificationMaterial", "publicKey"),
    ("verificationMaterial", "publicKey", "hint"),
    ("verificationMaterial", "x509CertificateChain"),
    ("verificationMaterial", "tlogEntries"),
    ("dsseEnvelope",),
    ("dsseEnvelope", "payload"),
    ("dsseEnvelope", "payloadType"),
    ("dsseEnvelope", "signatures"),
)


@settings(max_examples=150)
@given(by_key=st.booleans(), field=st.sampled_from(FIELDS), value=json_values)
def test_a_signature_file_of_any_other_shape_is_refused_by_type(
    by_key: bool, field: tuple[str, ...], value: object, party: Party, certified: Party, signed: Path
) -> None:
    authority = KeyAuthority(public_key=party.accept) if by_key else CertificateAuthority(chain=(certified.accept,))
    bundle = json.loads((signed.parent / ("key.sig" if by_key else "certificate.sig")).read_bytes())
    place = bundle
    for name in field[:-1]:
        place = place.get(name, {})
    before = place.get(field[-1])
    place[field[-1]] = value
    damaged = write(signed.parent / "other.sig", json.dumps(bundle).encode())
    try:
        verify_oms(signed, damaged, authority, now=datetime.now(UTC))
    except ManifestError:
        return
    # What the signature does not cover: hints at the key, proofs of a log that keys and certificates do without.
    assert value == before or field[0] == "verificationMaterial"


def test_sigstore_that_cannot_be_reached_is_said_so(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # no trust root of an earlier day
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nobody listens there
    line = refuse("verify", signed, "--signature", signed.parent / "key.sig", *IDENTITY)
    assert "can't get Sigstore's trust root" in line
    assert "--sigstore-trust-config" in line


def test_a_signature_by_a_key_is_none_by_a_sigstore_identity(signed: Path, tmp_path: Path) -> None:
    store = files("sigstore") / "_store" / "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
    config = {
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": json.loads((store / "trusted_root.json").read_text()),
        "signingConfig": json.loads((store / "signing_config.v0.2.json").read_text()),
    }
    trust = write(tmp_path / "trust.json", json.dumps(config).encode())
    options = ("--signature", signed.parent / "key.sig", *IDENTITY, "--sigstore-trust-config")
    assert "signature" in refuse("verify", signed, *options, trust)
    assert "trust root" in refuse("verify", signed, *options, write(tmp_path / "none.json", b"{}"))
    assert "can't read" in refuse("verify", signed, *options, tmp_path / "missing.json")
