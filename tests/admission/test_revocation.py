"""The revocation list, and the gate that judges peers by it."""

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from admission.members import NOW_S, Member, sealed_list
from osai.core.admission import Authority, Gate, RevocationList, Role, seal, unseal
from osai.core.admission.revocation import MAX_REVOKED, serial_text
from osai.core.errors import ResourceExhaustedError, TrustError
from osai.core.manifest.encode import canonical


@pytest.fixture
def nobody(authority: Authority) -> RevocationList:
    """A list as signed, on which nobody is."""
    return RevocationList(swarm_id=authority.anchor.swarm_id).next(NOW_S)


def test_a_list_comes_back_from_its_seal(authority: Authority, nobody: RevocationList, node: Member) -> None:
    revoked = nobody.revoking_member(node.peer.member_id, NOW_S).revoking_serial(7, NOW_S).next(NOW_S)
    read = unseal(seal(revoked, authority), authority.anchor)
    assert read == revoked
    assert read.members == {node.peer.member_id: int(NOW_S)}
    assert (read.issued_s, read.not_after_s) == (int(NOW_S), int(NOW_S) + 86400)


def test_a_revoked_member_is_refused_whatever_it_shows(nobody: RevocationList, authority: Authority) -> None:
    member, other = Member.of(authority, Role.NODE), Member.of(authority, Role.NODE)
    revoked = nobody.revoking_member(member.peer.member_id, NOW_S)
    for serial in (member.peer.serial, 1):
        assert not revoked.accepts(replace(member.peer, serial=serial))
    assert not revoked.accepts_id(member.peer.member_id)
    assert revoked.accepts(other.peer)
    assert revoked.restoring_member(member.peer.member_id).accepts(member.peer)


def test_a_revoked_certificate_is_refused_and_its_member_is_not(nobody: RevocationList, node: Member) -> None:
    revoked = nobody.revoking_serial(node.peer.serial, NOW_S)
    assert not revoked.accepts(node.peer)
    assert revoked.accepts(replace(node.peer, serial=node.peer.serial + 1))


def test_serials_leave_the_list_when_no_such_certificate_can_be_valid(nobody: RevocationList, node: Member) -> None:
    revoked = nobody.revoking_serial(5, NOW_S).revoking_member(node.peer.member_id, NOW_S)
    a_week_s = 7 * 86400
    assert serial_text(5) in revoked.next(NOW_S + a_week_s).serials
    later = revoked.next(NOW_S + a_week_s + 301)
    assert not later.serials
    assert later.members == revoked.members


@given(st.lists(st.floats(0, 2e9, allow_nan=False), min_size=2, max_size=20))
def test_versions_rise_whatever_the_clock_does(times_s: list[float]) -> None:
    versions = [(revocations := RevocationList(swarm_id="ab" * 16).next(times_s[0])).version]
    for now_s in times_s:
        revocations = revocations.next(now_s)
        versions.append(revocations.version)
    assert versions == sorted(set(versions))


def test_an_issuer_that_has_lost_its_list_signs_a_newer_one(nobody: RevocationList) -> None:
    assert RevocationList(swarm_id=nobody.swarm_id).next(NOW_S + 1).is_newer_than(nobody)


def test_only_a_newer_list_takes_a_lists_place(authority: Authority, node: Member) -> None:
    old = sealed_list(authority)
    new = sealed_list(authority, node.peer.member_id, now_s=NOW_S + 1)
    gate = Gate.opened(authority.anchor, old, NOW_S)
    assert gate.admit(node.leaf, NOW_S) == node.peer
    gate = gate.updated(new, NOW_S + 1)
    assert gate.updated(old, NOW_S + 1) is gate
    assert gate.updated(new, NOW_S + 1) is gate
    with pytest.raises(TrustError, match="is revoked"):
        gate.admit(node.leaf, NOW_S + 1)
    with pytest.raises(TrustError, match="is revoked"):
        gate.check(node.peer, NOW_S + 1)


def test_nobody_is_let_in_by_a_list_that_has_ended(authority: Authority, gate: Gate) -> None:
    late_s = NOW_S + 86400
    member = Member.of(authority, Role.NODE, now_s=late_s - 100)
    assert gate.admit(member.leaf, late_s - 1) == member.peer
    with pytest.raises(TrustError, match="list has ended"):
        gate.admit(member.leaf, late_s)
    with pytest.raises(TrustError, match="list has ended"):
        gate.updated(sealed_list(authority, now_s=NOW_S + 1), late_s + 1)
    with pytest.raises(TrustError, match="list has ended"):
        Gate.opened(authority.anchor, sealed_list(authority), late_s)
    assert gate.updated(sealed_list(authority, now_s=late_s), late_s).admit(member.leaf, late_s) == member.peer


def test_a_call_outlives_its_certificate_but_a_new_one_needs_another(authority: Authority, node: Member) -> None:
    late_s = NOW_S + 86401
    gate = Gate.opened(authority.anchor, sealed_list(authority, now_s=late_s), late_s)
    gate.check(node.peer, late_s)
    with pytest.raises(TrustError, match="expired"):
        gate.admit(node.leaf, late_s)


def test_a_list_of_another_swarm_is_refused(authority: Authority, other_authority: Authority, gate: Gate) -> None:
    with pytest.raises(TrustError, match="not signed by"):
        gate.updated(sealed_list(other_authority, now_s=NOW_S + 5), NOW_S + 5)
    misnamed = RevocationList(swarm_id=other_authority.anchor.swarm_id).next(NOW_S)
    with pytest.raises(TrustError, match="is of swarm"):
        seal(misnamed, authority)


def test_a_member_signs_no_lists(authority: Authority, nobody: RevocationList, node: Member) -> None:
    file = json.loads(seal(nobody, authority))
    message = b"osai.v1.revocations\0" + canonical(file["signed"])
    file["signature"] = node.key.private_key.sign(message, ec.ECDSA(hashes.SHA256())).hex()
    with pytest.raises(TrustError, match="not signed by"):
        unseal(canonical(file), authority.anchor)


def test_a_changed_list_is_refused(authority: Authority, nobody: RevocationList, node: Member) -> None:
    sealed = seal(nobody.revoking_member(node.peer.member_id, NOW_S), authority)
    for old, new in (
        (node.peer.member_id.encode(), b"0" * 32),
        (f'"{node.peer.member_id}":{int(NOW_S)}'.encode(), b""),
        (f'"version":{nobody.version}'.encode(), f'"version":{nobody.version + 9}'.encode()),
        (f'"not_after_s":{nobody.not_after_s}'.encode(), f'"not_after_s":{nobody.not_after_s * 2}'.encode()),
    ):
        assert old in sealed
        with pytest.raises(TrustError, match="not signed by"):
            unseal(sealed.replace(old, new), authority.anchor)


def resealed(authority: Authority, nobody: RevocationList, **changes: object) -> bytes:
    """A list that the authority has signed, whatever it says."""
    signed = json.loads(seal(nobody, authority))["signed"] | changes
    signature = authority.sign(b"osai.v1.revocations\0", canonical(signed))
    return canonical({"signature": signature.hex(), "signed": signed})


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": True},
        {"version": 0},
        {"version": 2**53},
        {"version": None},
        {"not_after_s": 5},
        {"issued_s": -1},
        {"members": []},
        {"members": {"ab": 1}},
        {"members": {"AB" * 16: 1}},
        {"members": {"ab" * 16: True}},
        {"members": {"ab" * 16: -1}},
        {"members": {"ab" * 16: "1"}},
        {"serials": {"7": 1}},
        {"serials": {"ab" * 17: 1}},
        {"more": 1},
    ],
)
def test_a_list_of_another_form_is_refused_even_if_signed(
    authority: Authority, nobody: RevocationList, changes: dict[str, object]
) -> None:
    assert unseal(resealed(authority, nobody), authority.anchor) == nobody
    with pytest.raises(TrustError):
        unseal(resealed(authority, nobody, **changes), authority.anchor)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"signature":"","signed":{}}',
        b'{"signature":"' + b"30" * 70 + b'","signed":{}}',
        b'{"signature":"' + b"zz" * 70 + b'","signed":{}}',
        b'{"signature":"' + b"30" * 70 + b'","signed":{"a":"\\ud800"}}',
        b'{"signature":"' + b"30" * 70 + b'","signed":{"a":1e5}}',
    ],
)
def test_what_is_no_list_is_refused(authority: Authority, data: bytes) -> None:
    with pytest.raises(TrustError):
        unseal(data, authority.anchor)


def test_the_longest_list_fits_and_a_longer_one_is_refused(authority: Authority, nobody: RevocationList) -> None:
    most = {f"{index:032x}": int(NOW_S) for index in range(MAX_REVOKED)}
    full = replace(nobody, members=most, serials=dict(most))
    sealed = seal(full, authority)
    assert unseal(sealed, authority.anchor) == full
    with pytest.raises(TrustError, match="over the limit"):
        unseal(sealed + b" " * (2**20 + 1 - len(sealed)), authority.anchor)
    with pytest.raises(ResourceExhaustedError, match="are revoked"):
        seal(full.revoking_member("ff" * 16, NOW_S), authority)
    over = most | {"ff" * 16: 1}
    with pytest.raises(TrustError, match="entries is refused"):
        unseal(resealed(authority, nobody, members=over), authority.anchor)
