"""Thousands of damaged inputs: each is refused by an error of osai's, or means what it meant before."""

from random import Random

import pytest
from cryptography import x509
from scripts.chaos_runs.mutants import damaged

from admission.members import NOW_S, Member, der, outcome, sealed_list
from osai.core.admission import (
    Anchor,
    Applicant,
    Authority,
    JoinToken,
    LeafRequest,
    Peer,
    Role,
    TlsKey,
    TokenBook,
    check_request,
    enrolling,
    read_peer,
    request_leaf,
    unseal,
)
from osai.core.admission.credentials import _message
from osai.core.errors import TrustError
from osai.core.identity import Identity

NUM_MUTATIONS = 1000
ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")  # as an AlgorithmIdentifier
# of damaged certificates the library warns: that they are odd, which here is no news
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


@pytest.mark.parametrize("form", ["pem", "der"])
def test_a_damaged_certificate_is_no_other_member(authority: Authority, node: Member, form: str) -> None:
    random, leaf = Random(form), node.leaf if form == "pem" else der(node.leaf)
    read = [
        outcome(lambda data: read_peer(data, authority.anchor, NOW_S), damaged(leaf, random))
        for _ in range(NUM_MUTATIONS)
    ]
    assert {each for each in read if each is not None} <= {node.peer}
    assert read.count(None) > NUM_MUTATIONS * 0.9


def test_an_odd_certificate_of_the_authority_is_refused_in_order(authority: Authority, node: Member) -> None:
    """Damage that the authority has signed: everything behind the signature's check is reached."""
    random, body = Random(8), body_of(node)
    read = [
        outcome(lambda data: read_peer(data, authority.anchor, NOW_S), resigned(authority, damaged(body, random)))
        for _ in range(NUM_MUTATIONS)
    ]
    assert all(each is None or isinstance(each, Peer) for each in read)
    assert read.count(None) > NUM_MUTATIONS * 0.8


def test_an_extension_given_twice_and_a_name_of_a_strange_kind_are_refused(authority: Authority, node: Member) -> None:
    body = body_of(node)
    assert read_peer(resigned(authority, body), authority.anchor, NOW_S) == node.peer
    subject_key, key_usage, dns_name, edi_party = b"\x55\x1d\x0e", b"\x55\x1d\x0f", b"\x82\x12node", b"\xa5\x12node"
    for old, new in ((subject_key, key_usage), (dns_name, edi_party)):
        assert body.count(old) == 1
        with pytest.raises(TrustError, match="not what this swarm issues"):
            read_peer(resigned(authority, body.replace(old, new)), authority.anchor, NOW_S)


def body_of(member: Member) -> bytes:
    """What is signed of a member's certificate."""
    return x509.load_pem_x509_certificate(member.leaf).tbs_certificate_bytes


def resigned(authority: Authority, body: bytes) -> bytes:
    """A certificate of whatever the authority is made to sign, DER."""
    signature = der_value(0x03, b"\0" + authority.sign(b"", body))
    return der_value(0x30, body + ECDSA_WITH_SHA256 + signature)


def der_value(tag: int, body: bytes) -> bytes:
    """A value after its tag and length."""
    length = bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2)
    return bytes([tag]) + length + body


def test_a_damaged_authority_is_no_other_anchor(authority: Authority) -> None:
    random, certificate = Random(2), der(authority.anchor.pem)
    read = [outcome(Anchor.read, damaged(certificate, random)) for _ in range(NUM_MUTATIONS)]
    assert all(each is None or each.swarm_id == authority.anchor.swarm_id for each in read if isinstance(each, Anchor))
    assert read.count(None) > NUM_MUTATIONS * 0.9


def test_a_damaged_token_opens_nothing(authority: Authority) -> None:
    random = Random(3)
    book, token = TokenBook().invite(authority.anchor, Role.NODE, now_s=NOW_S, random=random.randbytes)
    text = token.text.encode()
    for _ in range(NUM_MUTATIONS):
        changed = damaged(text, random).decode("utf-8", errors="replace")
        parsed = outcome(lambda data: JoinToken.parse(data.decode()), changed.encode())
        if isinstance(parsed, JoinToken) and (parsed.token_id, parsed.secret) == (token.token_id, token.secret):
            assert parsed == token or parsed.authority != token.authority
            continue
        with pytest.raises(TrustError):
            book.redeem(changed, "ab" * 16, NOW_S)


def test_a_damaged_list_is_no_other_list(authority: Authority, node: Member) -> None:
    random, sealed = Random(4), sealed_list(authority, node.peer.member_id, "ef" * 16)
    whole = unseal(sealed, authority.anchor)
    read = [outcome(lambda data: unseal(data, authority.anchor), damaged(sealed, random)) for _ in range(NUM_MUTATIONS)]
    assert all(each is None or each == whole for each in read)
    assert read.count(None) > NUM_MUTATIONS * 0.9


def test_a_damaged_book_is_refused_or_a_book(authority: Authority) -> None:
    random, book = Random(5), TokenBook()
    for role in Role:
        book, token = book.invite(authority.anchor, role, now_s=NOW_S, random=random.randbytes)
        book, _ = book.redeem(token.text, "ab" * 16, NOW_S)
    file = book.to_json()
    for _ in range(NUM_MUTATIONS):
        read = outcome(TokenBook.from_json, damaged(file, random))
        assert read is None or (isinstance(read, TokenBook) and TokenBook.from_json(read.to_json()) == read)


def test_a_damaged_request_gets_nothing(authority: Authority) -> None:
    """Also one whose signature by the identity covers the damage."""
    random, identity, occasion = Random(6), Identity.generate(), enrolling("0123456789abcdef")
    swarm_id = authority.anchor.swarm_id
    good = request_leaf(identity, TlsKey.generate(), swarm_id, occasion)
    applicant = check_request(good, swarm_id, occasion)
    for index in range(NUM_MUTATIONS):
        csr = damaged(good.csr, random)
        signature = identity.sign(_message(swarm_id, occasion, csr)) if index % 2 else good.signature

        def read(data: bytes, signature: bytes = signature) -> Applicant:
            request = LeafRequest(csr=data, public_key=identity.public_key, signature=signature)
            return check_request(request, swarm_id, occasion)

        assert outcome(read, csr) in (None, applicant)


def test_a_damaged_identity_is_another_or_none(authority: Authority) -> None:
    random, identity, occasion = Random(7), Identity.generate(), enrolling("0123456789abcdef")
    good = request_leaf(identity, TlsKey.generate(), authority.anchor.swarm_id, occasion)
    for _ in range(NUM_MUTATIONS):
        public_key, signature = damaged(good.public_key, random), damaged(good.signature, random)
        if (public_key, signature) == (good.public_key, good.signature):
            continue
        request = LeafRequest(csr=good.csr, public_key=public_key, signature=signature)
        with pytest.raises(TrustError):
            check_request(request, authority.anchor.swarm_id, occasion)
