"""The authority: its own certificate, and the leaves that it issues."""

from hashlib import sha256
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from admission.members import NOW_S, Member, der, odd_leaf
from osai.core.admission import Anchor, Authority, Role, TlsKey, server_name
from osai.core.admission.authority import AUTHORITY_LIFE_S, MAX_LEAF_LIFE_S
from osai.core.admission.profile import authority_extensions, common_name, time_of
from osai.core.admission.roles import JOIN_NAME, member_uri, parse_member_uri, server_names
from osai.core.errors import TrustError
from osai.core.identity import Identity

MEMBER = "cd" * 16


def names_of(leaf: bytes) -> tuple[list[str], list[str]]:
    certificate = x509.load_pem_x509_certificate(leaf)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier), names.get_values_for_type(x509.DNSName)


def purposes_of(leaf: bytes) -> set[x509.ObjectIdentifier]:
    certificate = x509.load_pem_x509_certificate(leaf)
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_the_swarm_is_named_after_the_authoritys_key(authority: Authority, other_authority: Authority) -> None:
    encoded = authority.key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert authority.anchor.swarm_id == sha256(encoded).hexdigest()[:32]
    assert authority.anchor.swarm_id != other_authority.anchor.swarm_id
    assert authority.anchor.digest == sha256(der(authority.anchor.pem)).digest()


def test_the_authority_lives_ten_years_and_issues_leaves_alone(authority: Authority) -> None:
    certificate = authority.anchor.certificate
    assert certificate.not_valid_after_utc.timestamp() == NOW_S + AUTHORITY_LIFE_S
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=True, path_length=0))


def test_an_authority_comes_back_from_its_files(authority: Authority) -> None:
    again = Authority(anchor=Anchor.read(authority.anchor.pem), key=TlsKey.from_pem(authority.key.pem))
    assert again.anchor == authority.anchor
    assert Anchor.read(der(authority.anchor.pem)) == authority.anchor
    assert Member.of(again, Role.NODE).role is Role.NODE


def test_files_of_two_authorities_do_not_make_one(authority: Authority, other_authority: Authority) -> None:
    with pytest.raises(TrustError, match="mixed up"):
        Authority(anchor=authority.anchor, key=other_authority.key)


def test_nothing_but_an_authoritys_certificate_is_an_anchor(authority: Authority, node: Member) -> None:
    for certificate in (node.leaf, odd_leaf(authority), b"", b"-----BEGIN nothing", b"\x30" * 9000):
        with pytest.raises(TrustError):
            Anchor.read(certificate)


def test_a_certificate_that_signs_itself_but_is_no_authority_is_no_anchor() -> None:
    key, name = TlsKey.generate(), common_name("osai swarm")
    public = key.public_key
    due = authority_extensions(public)
    longer = x509.BasicConstraints(ca=True, path_length=1)
    for extensions in ((), due[1:], ((longer, True), *due[1:]), due):
        builder = x509.CertificateBuilder(name, name, public, 7, time_of(NOW_S), time_of(NOW_S + 60))
        for value, critical in extensions:
            builder = builder.add_extension(value, critical=critical)
        certificate = builder.sign(key.private_key, hashes.SHA256()).public_bytes(Encoding.PEM)
        if extensions is due:
            assert Anchor.read(certificate).key == public
        else:
            with pytest.raises(TrustError, match="BasicConstraints"):
                Anchor.read(certificate)


def test_the_authoritys_certificate_must_sign_itself(authority: Authority, other_authority: Authority) -> None:
    changed = bytearray(der(authority.anchor.pem))
    changed[-1] ^= 1
    with pytest.raises(TrustError, match="not signed by"):
        Anchor.read(bytes(changed))


@pytest.mark.parametrize("role", list(Role))
def test_a_leaf_names_its_member_and_lives_a_day(authority: Authority, role: Role, random: Random) -> None:
    key = TlsKey.generate()
    leaf = authority.issue(role, MEMBER, key.public_key, now_s=NOW_S, random=random.randbytes)
    certificate = x509.load_pem_x509_certificate(leaf)
    assert names_of(leaf)[0] == [f"spiffe://{authority.anchor.swarm_id}/{role}/{MEMBER}"]
    assert certificate.not_valid_before_utc.timestamp() == NOW_S - 300
    assert certificate.not_valid_after_utc.timestamp() == NOW_S + 86400
    assert certificate.public_key() == key.public_key
    assert 1 << 127 <= certificate.serial_number < 1 << 128


def test_nodes_and_coordinators_serve_under_their_own_names_and_clients_under_none(
    node: Member, coordinator: Member, client: Member
) -> None:
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert names_of(node.leaf)[1] == ["node.osai.internal", f"{node.identity.node_id}.node.osai.internal"]
    assert names_of(coordinator.leaf)[1] == [
        "coordinator.osai.internal",
        f"{coordinator.identity.node_id}.coordinator.osai.internal",
        JOIN_NAME,
    ]
    assert names_of(client.leaf)[1] == []
    assert (purposes_of(node.leaf), purposes_of(coordinator.leaf)) == (both, both)
    assert purposes_of(client.leaf) == {ExtendedKeyUsageOID.CLIENT_AUTH}


def test_serial_numbers_come_from_the_randomness_passed_in(authority: Authority) -> None:
    def serial(random: Random) -> int:
        leaf = authority.issue(Role.NODE, MEMBER, authority.key.public_key, now_s=NOW_S, random=random.randbytes)
        return x509.load_pem_x509_certificate(leaf).serial_number

    assert serial(Random(3)) == serial(Random(3)) != serial(Random(4))


@pytest.mark.parametrize("life_s", [0, -1, MAX_LEAF_LIFE_S + 1])
def test_a_leafs_life_has_bounds(authority: Authority, life_s: int) -> None:
    with pytest.raises(TrustError, match="can't live for"):
        authority.issue(
            Role.NODE, MEMBER, authority.key.public_key, now_s=NOW_S, random=Random(1).randbytes, life_s=life_s
        )


def test_no_leaf_outlives_the_authority(authority: Authority) -> None:
    late_s = NOW_S + AUTHORITY_LIFE_S - 86400
    assert Member.of(authority, Role.NODE, now_s=late_s).peer.not_after_s == late_s + 86400
    with pytest.raises(TrustError, match="ends before"):
        Member.of(authority, Role.NODE, now_s=late_s + 1)


@pytest.mark.parametrize("member_id", ["", "cd" * 15, "CD" * 16, "cd" * 16 + "\n", "cd" * 15 + "g/", "cd" * 32])
def test_an_id_of_another_form_gets_no_leaf(authority: Authority, member_id: str) -> None:
    with pytest.raises(TrustError, match="no member id"):
        authority.issue(Role.NODE, member_id, authority.key.public_key, now_s=NOW_S, random=Random(1).randbytes)


def test_a_key_on_another_curve_gets_no_leaf(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    with pytest.raises(TrustError, match="not a P-256 key"):
        authority.issue(Role.NODE, MEMBER, key, now_s=NOW_S, random=Random(1).randbytes)


def test_key_files_of_other_kinds_are_refused() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for data in (pem, Identity.generate().to_pem(), b"", b"x" * 10_000):
        with pytest.raises(TrustError):
            TlsKey.from_pem(data)


def test_no_key_shows_in_a_log(authority: Authority, node: Member) -> None:
    for value in (authority, node.key):
        assert "PrivateKey" not in repr(value)


HEX = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(HEX, st.sampled_from(Role), HEX)
def test_a_members_name_comes_back(swarm_id: str, role: Role, member_id: str) -> None:
    assert parse_member_uri(member_uri(swarm_id, role, member_id)) == (swarm_id, role, member_id)
    assert all(name.endswith(".osai.internal") for name in server_names(role, member_id))


@pytest.mark.parametrize(
    ("old", "new"), [("spiffe", "https"), ("node", "root"), ("node", "NODE"), ("ab", "AB"), ("//", "///"), ("cd", "")]
)
def test_a_name_of_another_form_is_no_members(old: str, new: str) -> None:
    name = member_uri("ab" * 16, Role.NODE, MEMBER)
    assert parse_member_uri(name) == ("ab" * 16, Role.NODE, MEMBER)
    for odd in (name.replace(old, new, 1), f"{name}\n", f"{name}/", f" {name}", f"{name}0"):
        with pytest.raises(TrustError, match="is no member's"):
            parse_member_uri(odd)


@pytest.mark.parametrize("role", [Role.NODE, Role.COORDINATOR])
def test_the_name_that_is_demanded_is_one_that_is_issued(role: Role) -> None:
    assert {server_name(role), server_name(role, MEMBER)} <= set(server_names(role, MEMBER))


def test_no_name_demands_a_client() -> None:
    with pytest.raises(TrustError, match="serves nobody"):
        server_name(Role.CLIENT, MEMBER)
