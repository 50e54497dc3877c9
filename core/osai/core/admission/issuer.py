"""The issuer's side of admission: who gets a certificate, and for what. Pure.

The S numbers are clauses of docs/security.md. The shell keeps the token book safe before it answers, and hands the
newest revocation list out with every certificate.
"""

from dataclasses import dataclass

from osai.core.admission.authority import Authority, RandomBytes, leaf_life_s
from osai.core.admission.credentials import LeafRequest, check_request, enrolling, renewing
from osai.core.admission.peer import Peer
from osai.core.admission.revocation import RevocationList
from osai.core.admission.token_book import TokenBook
from osai.core.admission.tokens import JoinToken
from osai.core.errors import ForbiddenError, TrustError
from osai.core.identity import node_id_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What follows from a redeemed token.

    Attributes:
        book: to be kept safe before the leaf is handed out, or the token would be good once more (S12).
        leaf: the new member's certificate, PEM.
        member_id: of the new member.
    """

    book: TokenBook
    leaf: bytes
    member_id: str


def enrol(
    authority: Authority,
    book: TokenBook,
    revocations: RevocationList,
    token_text: str,
    request: LeafRequest,
    *,
    now_s: float,
    random: RandomBytes,
    life_s: int | None = None,
) -> Enrolled:
    """Give a certificate to whoever has a token (S8, S12, S13). Nothing is used up where it is refused.

    Raises:
        TrustError: if the token or the request is not good, or the member is revoked.
    """
    member_id, token = node_id_of(request.public_key), JoinToken.parse(token_text)
    used, role = book.redeem(token_text, member_id, now_s)  # first: it is cheap, and keeps strangers from the rest
    applicant = check_request(request, authority.anchor.swarm_id, enrolling(token.token_id))
    if not revocations.accepts_id(member_id):  # S13
        raise _revoked(member_id)
    life_s = life_s or leaf_life_s(role)
    leaf = authority.issue(role, applicant.member_id, applicant.key, now_s=now_s, random=random, life_s=life_s)
    return Enrolled(book=used, leaf=leaf, member_id=member_id)


def renew(
    authority: Authority,
    revocations: RevocationList,
    peer: Peer,
    request: LeafRequest,
    *,
    now_s: float,
    random: RandomBytes,
    life_s: int | None = None,
) -> bytes:
    """Give a member a new certificate in place of the one that it shows, for the same role and id (S9).

    Args:
        authority: issues it.
        revocations: the newest list.
        peer: the member, as `Gate.admit` has read it from the connection.
        request: made for this renewal, by the same identity.
        now_s: seconds since 1970.
        random: draws the serial number.
        life_s: of the new certificate; None for what its role has.

    Raises:
        TrustError: if the request is not good or another's, or the member is revoked.
    """
    if not revocations.accepts(peer):  # S13
        raise _revoked(peer.member_id)
    applicant = check_request(request, authority.anchor.swarm_id, renewing(peer))
    if applicant.member_id != peer.member_id:  # S9
        raise TrustError("a certificate is renewed for its own member alone; another joins with a token")
    life_s = life_s or leaf_life_s(peer.role)
    return authority.issue(peer.role, peer.member_id, applicant.key, now_s=now_s, random=random, life_s=life_s)


def _revoked(member_id: str) -> ForbiddenError:
    return ForbiddenError(f"member {member_id} is revoked in this swarm: ask its operator", subject=member_id)
