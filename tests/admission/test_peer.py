"""Certificates as peers show them: who is believed to be whom, and what is refused."""

from datetime import timedelta
from ipaddress import ip_address
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from admission.members import NOW_S, Changed, Member, believed, der, instead, named, odd_leaf, without
from osai.core.admission import Authority, Peer, Role, read_peer
from osai.core.errors import TrustError

MEMBER = "ab" * 16
NODE_DNS = (x509.DNSName("node.osai.internal"), x509.DNSName(f"{MEMBER}.node.osai.internal"))


@pytest.mark.parametrize("role", list(Role))
def test_a_member_is_read_from_pem_and_der(authority: Authority, role: Role) -> None:
    member = Member.of(authority, role)
    read = believed(member.leaf, authority.anchor)
    serial = x509.load_pem_x509_certificate(member.leaf).serial_number
    assert read == Peer(role=role, member_id=member.identity.node_id, serial=serial, not_after_s=int(NOW_S) + 86400)
    assert believed(der(member.leaf), authority.anchor) == read


def test_a_certificate_counts_from_before_its_issue_to_its_end(authority: Authority, node: Member) -> None:
    for at_s in (NOW_S - 300, NOW_S + 86399.9):
        assert read_peer(node.leaf, authority.anchor, at_s) == node.peer
    with pytest.raises(TrustError, match="not valid yet"):
        read_peer(node.leaf, authority.anchor, NOW_S - 301)
    with pytest.raises(TrustError, match="expired"):
        read_peer(node.leaf, authority.anchor, NOW_S + 86400)


def test_a_member_of_another_swarm_is_refused(authority: Authority, other_authority: Authority) -> None:
    stranger = Member.of(other_authority, Role.COORDINATOR)
    with pytest.raises(TrustError, match="not signed by the authority"):
        believed(stranger.leaf, authority.anchor)


def test_the_authoritys_own_certificate_is_no_members(authority: Authority) -> None:
    with pytest.raises(TrustError):
        believed(authority.anchor.pem, authority.anchor)


def test_an_oversized_certificate_is_not_parsed(authority: Authority, node: Member) -> None:
    with pytest.raises(TrustError, match="over the limit"):
        believed(node.leaf + b"\n" * 8192, authority.anchor)


def test_a_leaf_as_issued_is_read_by_these_tests_too(authority: Authority) -> None:
    assert believed(odd_leaf(authority), authority.anchor).member_id == MEMBER


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def test_names_that_no_member_has_are_refused(authority: Authority, other_authority: Authority) -> None:
    mine, other = authority.anchor.swarm_id, other_authority.anchor.swarm_id
    good = uri(f"spiffe://{mine}/node/{MEMBER}")
    odd: list[list[x509.GeneralName]] = [
        [*NODE_DNS],
        [good],
        [good, NODE_DNS[0]],
        [good, good, *NODE_DNS],
        [good, *NODE_DNS, x509.DNSName("coordinator.osai.internal")],
        [good, *NODE_DNS, x509.IPAddress(ip_address("127.0.0.1"))],
        [*NODE_DNS, good],
        [good, NODE_DNS[0], x509.DNSName("*.node.osai.internal")],
        [uri(f"spiffe://{other}/node/{MEMBER}"), *NODE_DNS],
        [uri(f"spiffe://{mine}/coordinator/{MEMBER}"), *NODE_DNS],
        [uri(f"spiffe://{mine}/client/{MEMBER}"), *NODE_DNS],
        [uri(f"spiffe://{mine}/root/{MEMBER}"), *NODE_DNS],
        [uri(f"spiffe://{mine}/node/{MEMBER}/coordinator"), *NODE_DNS],
        [uri(f"spiffe://{mine}/node/{MEMBER.upper()}"), *NODE_DNS],
        [uri(f"spiffe://{mine}/node/"), *NODE_DNS],
        [uri(f"https://{mine}/node/{MEMBER}"), *NODE_DNS],
        [uri(f"spiffe://{mine}/node/{MEMBER}\n"), *NODE_DNS],
    ]
    for names in odd:
        with pytest.raises(TrustError):
            believed(odd_leaf(authority, changed=named(*names)), authority.anchor)


def usage(*purposes: ObjectIdentifier) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(purposes)


UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")


@pytest.mark.parametrize(
    "changed",
    [
        without(x509.SubjectAlternativeName),
        without(x509.BasicConstraints),
        without(x509.KeyUsage),
        without(x509.ExtendedKeyUsage),
        without(x509.AuthorityKeyIdentifier),
        instead(x509.BasicConstraints(ca=True, path_length=None), critical=True),
        instead(x509.BasicConstraints(ca=False, path_length=None), critical=False),
        instead(usage(ExtendedKeyUsageOID.CLIENT_AUTH), critical=True),
        instead(usage(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), critical=True),
        instead(x509.SubjectKeyIdentifier(b"another"), critical=False),
        instead(UNKNOWN, critical=True),
    ],
)
def test_contents_that_this_swarm_does_not_issue_are_refused(authority: Authority, changed: Changed) -> None:
    with pytest.raises(TrustError):
        believed(odd_leaf(authority, changed=changed), authority.anchor)


def test_a_later_release_may_say_more(authority: Authority) -> None:
    leaf = odd_leaf(authority, changed=instead(UNKNOWN, critical=False))
    assert believed(leaf, authority.anchor).role is Role.NODE


def test_other_keys_issuers_and_signatures_are_refused(authority: Authority) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another")])
    curve = ec.generate_private_key(ec.SECP384R1()).public_key()
    for leaf, words in (
        (odd_leaf(authority, issuer=name), "another issuer"),
        (odd_leaf(authority, key=curve), "not a P-256 key"),
        (odd_leaf(authority, algorithm=hashes.SHA384()), "no swarm uses"),
    ):
        with pytest.raises(TrustError, match=words):
            believed(leaf, authority.anchor)


def test_a_leaf_issues_nothing(authority: Authority, node: Member) -> None:
    """A member that signs a certificate with its own key is no authority."""
    leaf = x509.load_pem_x509_certificate(node.leaf)
    forged = (
        x509.CertificateBuilder(
            subject_name=leaf.subject,
            issuer_name=leaf.issuer,
            public_key=node.key.public_key,
            serial_number=Random(5).getrandbits(100),
            not_valid_before=leaf.not_valid_before_utc,
            not_valid_after=leaf.not_valid_after_utc + timedelta(days=1),
            extensions=list(leaf.extensions),
        )
    ).sign(node.key.private_key, hashes.SHA256())
    with pytest.raises(TrustError, match="not signed by the authority"):
        believed(forged.public_bytes(Encoding.DER), authority.anchor)
