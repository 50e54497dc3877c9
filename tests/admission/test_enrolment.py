"""Joining and renewing, from the invitation to the certificate: who gets one, and who does not."""

from dataclasses import dataclass, replace
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from admission.members import NOW_S, Member
from osai.core.admission import (
    Authority,
    Credentials,
    JoinToken,
    LeafRequest,
    RevocationList,
    Role,
    TlsKey,
    TokenBook,
    check_request,
    enrol,
    enrolling,
    renew,
    renewal_due_s,
    renewing,
    request_leaf,
)
from osai.core.admission.credentials import _message
from osai.core.admission.profile import common_name
from osai.core.errors import TrustError
from osai.core.identity import Identity

TOKEN_ID = "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Joiner:
    """Somebody with keys and a token."""

    identity: Identity
    key: TlsKey
    token: JoinToken

    def request(self, swarm_id: str) -> LeafRequest:
        return request_leaf(self.identity, self.key, swarm_id, enrolling(self.token.token_id))


@dataclass(slots=True)
class Issuer:
    """A coordinator with the authority's key: the decisions, and what they leave."""

    authority: Authority
    book: TokenBook
    revocations: RevocationList

    def invite(self, role: Role) -> Joiner:
        self.book, token = self.book.invite(self.authority.anchor, role, now_s=NOW_S, random=Random(5).randbytes)
        return Joiner(Identity.generate(), TlsKey.generate(), token)

    def enrol(self, joiner: Joiner, request: LeafRequest | None = None, *, now_s: float = NOW_S) -> bytes:
        request = request or joiner.request(self.authority.anchor.swarm_id)
        done = enrol(
            self.authority,
            self.book,
            self.revocations,
            joiner.token.text,
            request,
            now_s=now_s,
            random=Random(6).randbytes,
        )
        assert done.member_id == joiner.identity.node_id
        self.book = done.book
        return done.leaf

    def renew(self, member: Member, request: LeafRequest, *, now_s: float = NOW_S) -> bytes:
        return renew(self.authority, self.revocations, member.peer, request, now_s=now_s, random=Random(8).randbytes)


@pytest.fixture
def issuer(authority: Authority) -> Issuer:
    return Issuer(authority, TokenBook(), RevocationList(swarm_id=authority.anchor.swarm_id))


@pytest.mark.parametrize("role", list(Role))
def test_whoever_has_a_token_becomes_what_it_is_for(issuer: Issuer, role: Role) -> None:
    joiner = issuer.invite(role)
    anchor = joiner.token.check_authority(issuer.authority.anchor.pem)
    leaf = issuer.enrol(joiner)
    mine = Credentials.read(leaf, joiner.key, anchor, role=role, member_id=joiner.identity.node_id, now_s=NOW_S)
    assert (mine.me.role, mine.me.member_id) == (role, joiner.identity.node_id)
    life_s = 7 * 86400 if role is Role.CLIENT else 86400  # S4
    assert NOW_S + 0.6 * life_s < mine.renew_at_s < NOW_S + 0.7 * life_s


def test_a_token_lets_nobody_else_in_once_it_is_used(issuer: Issuer) -> None:
    joiner = issuer.invite(Role.NODE)
    issuer.enrol(joiner)
    thief = replace(joiner, identity=Identity.generate(), key=TlsKey.generate())
    with pytest.raises(TrustError, match="has been used"):
        issuer.enrol(thief)


def test_a_member_whose_answer_was_lost_asks_again(issuer: Issuer) -> None:
    joiner = issuer.invite(Role.NODE)
    issuer.enrol(joiner)
    book = issuer.book
    assert issuer.enrol(replace(joiner, key=TlsKey.generate()))
    assert issuer.book == book
    with pytest.raises(TrustError, match="expired"):
        issuer.enrol(joiner, now_s=NOW_S + 86400)


def test_a_refused_request_uses_nothing_up(issuer: Issuer) -> None:
    joiner = issuer.invite(Role.NODE)
    before = issuer.book
    request = joiner.request(issuer.authority.anchor.swarm_id)
    with pytest.raises(TrustError):
        issuer.enrol(joiner, replace(request, signature=bytes(64)))
    assert issuer.book == before
    issuer.enrol(joiner)


def test_the_request_of_another_cannot_be_handed_in(issuer: Issuer) -> None:
    """Neither with one's own token, nor with one's own identity's key in place of the other's."""
    victim, thief = (
        issuer.invite(Role.NODE),
        Joiner(
            Identity.generate(), TlsKey.generate(), JoinToken(authority=bytes(32), token_id=TOKEN_ID, secret=bytes(32))
        ),
    )
    swarm_id = issuer.authority.anchor.swarm_id
    seen, own = victim.request(swarm_id), thief.request(swarm_id)
    for request in (
        replace(seen, public_key=thief.identity.public_key),
        replace(seen, csr=own.csr),
        replace(own, public_key=victim.identity.public_key),
    ):
        with pytest.raises(TrustError, match="not signed by the member's identity"):
            issuer.enrol(victim, request)
    with pytest.raises(TrustError, match="not signed by the member's identity"):
        check_request(seen, swarm_id, enrolling(thief.token.token_id))


def test_a_request_for_another_swarm_is_refused(issuer: Issuer, other_authority: Authority) -> None:
    joiner = issuer.invite(Role.NODE)
    with pytest.raises(TrustError, match="for this swarm and occasion"):
        issuer.enrol(joiner, joiner.request(other_authority.anchor.swarm_id))


def signed(identity: Identity, csr: bytes, swarm_id: str) -> LeafRequest:
    """A request whose binding is right, whatever the CSR is."""
    signature = identity.sign(_message(swarm_id, enrolling(TOKEN_ID), csr))
    return LeafRequest(csr=csr, public_key=identity.public_key, signature=signature)


def csr_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(subject_name=common_name("me"))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_csr_must_prove_its_key_and_be_of_p256(authority: Authority) -> None:
    identity, swarm_id = Identity.generate(), authority.anchor.swarm_id
    good = csr_of(TlsKey.generate().private_key)
    assert check_request(signed(identity, good, swarm_id), swarm_id, enrolling(TOKEN_ID)).member_id == identity.node_id
    broken = good[:-1] + bytes([good[-1] ^ 1])
    for csr, words in (
        (broken, "not signed with the TLS key"),
        (csr_of(ec.generate_private_key(ec.SECP384R1())), "not a P-256 key"),
        (b"", "not a certificate request"),
        (b"\x30\x03\x02\x01\x05", "not a certificate request"),
        (good + bytes(2048), "over the limit"),
    ):
        with pytest.raises(TrustError, match=words):
            check_request(signed(identity, csr, swarm_id), swarm_id, enrolling(TOKEN_ID))


@pytest.mark.parametrize("role", list(Role))
def test_a_renewal_keeps_role_and_id_and_changes_the_key(issuer: Issuer, role: Role) -> None:
    member, key = Member.of(issuer.authority, role), TlsKey.generate()
    later_s = NOW_S + 50_000
    request = request_leaf(member.identity, key, issuer.authority.anchor.swarm_id, renewing(member.peer))
    leaf = issuer.renew(member, request, now_s=later_s)
    mine = Credentials.read(
        leaf, key, issuer.authority.anchor, role=role, member_id=member.peer.member_id, now_s=later_s
    )
    assert mine.me.not_after_s == later_s + (7 * 86400 if role is Role.CLIENT else 86400)
    assert mine.me.serial != member.peer.serial


def test_nobody_renews_for_another_or_by_a_stolen_tls_key(issuer: Issuer, node: Member, client: Member) -> None:
    swarm_id, key = issuer.authority.anchor.swarm_id, TlsKey.generate()
    own_identity = request_leaf(client.identity, key, swarm_id, renewing(node.peer))
    with pytest.raises(TrustError, match="for its own member alone"):
        issuer.renew(node, own_identity)
    elsewhere = request_leaf(node.identity, key, swarm_id, renewing(replace(node.peer, serial=1)))
    first = request_leaf(node.identity, key, swarm_id, enrolling(TOKEN_ID))
    for replayed in (elsewhere, first):
        with pytest.raises(TrustError, match="occasion"):
            issuer.renew(node, replayed)


def test_the_revoked_neither_renew_nor_join_anew(issuer: Issuer, node: Member) -> None:
    swarm_id, nobody = issuer.authority.anchor.swarm_id, issuer.revocations
    request = request_leaf(node.identity, TlsKey.generate(), swarm_id, renewing(node.peer))
    invited = issuer.invite(Role.NODE)
    for issuer.revocations in (
        nobody.revoking_member(node.peer.member_id, NOW_S),
        nobody.revoking_serial(node.peer.serial, NOW_S),
    ):
        with pytest.raises(TrustError, match="is revoked"):
            issuer.renew(node, request)
    issuer.revocations = nobody.revoking_member(node.peer.member_id, NOW_S)
    with pytest.raises(TrustError, match="is revoked"):
        issuer.enrol(replace(invited, identity=node.identity))
    issuer.revocations = issuer.revocations.restoring_member(node.peer.member_id)
    assert issuer.enrol(replace(invited, identity=node.identity))


def test_a_member_takes_no_certificate_that_it_did_not_ask_for(
    issuer: Issuer, node: Member, other_authority: Authority
) -> None:
    anchor, me = issuer.authority.anchor, node.peer
    for leaf, key, role, member_id, words in (
        (node.leaf, TlsKey.generate(), me.role, me.member_id, "another TLS key"),
        (node.leaf, node.key, Role.COORDINATOR, me.member_id, "and this is coordinator"),
        (node.leaf, node.key, me.role, "ab" * 16, f"and this is node {'ab' * 16}"),
        (Member.of(other_authority, Role.NODE).leaf, node.key, me.role, me.member_id, "of another swarm"),
    ):
        with pytest.raises(TrustError, match=words):
            Credentials.read(leaf, key, anchor, role=role, member_id=member_id, now_s=NOW_S)


def test_a_kept_certificate_that_has_ended_is_refused(issuer: Issuer, node: Member) -> None:
    with pytest.raises(TrustError, match="join anew with a token"):
        Credentials.read(
            node.leaf,
            node.key,
            issuer.authority.anchor,
            role=Role.NODE,
            member_id=node.peer.member_id,
            now_s=NOW_S + 90_000,
        )


def test_credentials_show_no_key_in_a_log(issuer: Issuer, node: Member) -> None:
    anchor = issuer.authority.anchor
    mine = Credentials.read(node.leaf, node.key, anchor, role=Role.NODE, member_id=node.peer.member_id, now_s=NOW_S)
    assert "key=" not in repr(mine)
    assert mine.leaf_pem.startswith(b"-----BEGIN CERTIFICATE")


@given(st.integers(0, 10**10), st.integers(1, 10**8))
def test_two_thirds_of_a_life_pass_before_a_renewal(begin_s: int, life_s: int) -> None:
    due_s = renewal_due_s(begin_s, begin_s + life_s)
    assert begin_s + 0.66 * life_s < due_s < begin_s + 0.67 * life_s
