"""Join tokens and the issuer's book of them."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admission.members import NOW_S, Member, der
from osai.core.admission import Authority, JoinToken, Role, TokenBook
from osai.core.admission.token_book import MAX_TOKEN_LIFE_S, MAX_TOKENS
from osai.core.errors import InvalidRequestError, ResourceExhaustedError, TrustError

MEMBER, ANOTHER = "ab" * 16, "cd" * 16


def invited(authority: Authority, role: Role = Role.NODE, *, seed: int = 1) -> tuple[TokenBook, JoinToken]:
    return TokenBook().invite(authority.anchor, role, now_s=NOW_S, random=Random(seed).randbytes)


def words(book: TokenBook, text: str, *, member_id: str = MEMBER, now_s: float = NOW_S) -> str:
    """Why a token is refused."""
    with pytest.raises(TrustError) as caught:
        book.redeem(text, member_id, now_s)
    return caught.value.message


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=8, max_size=8), st.binary(min_size=32, max_size=32))
def test_a_token_comes_back_from_its_text(authority_digest: bytes, token_id: bytes, secret: bytes) -> None:
    token = JoinToken(authority=authority_digest, token_id=token_id.hex(), secret=secret)
    assert JoinToken.parse(token.text) == token
    assert JoinToken.parse(f"  {token.text}\n") == token
    assert len(token.text) == 110


def test_a_token_has_one_text_alone(authority: Authority) -> None:
    text = invited(authority)[1].text
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [text[:-1] + last for last in alphabet if last != text[-1]]
    parsed = []
    for other in others:
        try:
            parsed.append(JoinToken.parse(other))
        except TrustError:
            continue
    assert len(parsed) == 15  # of the last character's six bits two are spare
    assert JoinToken.parse(text) not in parsed


@pytest.mark.parametrize("text", ["osai1....", "osai1...", "osai2" + "x" * 105, "x" * 10_000, "osai1.ü.a.b"])
def test_what_is_no_token_is_not_repeated_in_the_error(text: str) -> None:
    with pytest.raises(TrustError, match="not a join token") as caught:
        JoinToken.parse(text)
    assert text not in caught.value.message


def test_the_secret_shows_neither_in_a_log_nor_in_the_book(authority: Authority) -> None:
    book, token = invited(authority)
    secret = token.text.rsplit(".", 1)[1]
    for shown in (repr(token), repr(book), book.to_json().decode()):
        assert secret not in shown
        assert token.secret.hex() not in shown
        assert repr(token.secret) not in shown


def test_the_joiner_knows_its_swarm_before_it_says_the_secret(
    authority: Authority, other_authority: Authority, node: Member
) -> None:
    _, token = invited(authority)
    assert token.check_authority(authority.anchor.pem) == authority.anchor
    assert token.check_authority(der(authority.anchor.pem)) == authority.anchor
    with pytest.raises(TrustError, match="not of the swarm") as caught:
        token.check_authority(other_authority.anchor.pem)
    assert token.text.rsplit(".", 1)[1] not in caught.value.message
    for certificate in (node.leaf, b"", b"nothing"):
        with pytest.raises(TrustError):
            token.check_authority(certificate)


@pytest.mark.parametrize("role", list(Role))
def test_a_token_is_good_for_its_role_once(authority: Authority, role: Role) -> None:
    book, token = invited(authority, role)
    used, given_role = book.redeem(token.text, MEMBER, NOW_S + 86399)
    assert given_role is role
    assert "has been used" in words(used, token.text, member_id=ANOTHER)
    assert used.redeem(token.text, MEMBER, NOW_S) == (used, role)


def test_a_token_ends(authority: Authority) -> None:
    book, token = invited(authority)
    assert "expired" in words(book, token.text, now_s=NOW_S + 86400)
    assert "unknown" in words(book.pruned(NOW_S + 86400), token.text)
    assert book.pruned(NOW_S + 86399) == book


def test_unknown_tokens_and_wrong_secrets_get_the_same_words(authority: Authority) -> None:
    book, token = invited(authority)
    forged = JoinToken(authority=token.authority, token_id=token.token_id, secret=bytes(32))
    _, unknown = invited(authority, seed=2)
    used, _ = book.redeem(token.text, MEMBER, NOW_S)
    later_s = NOW_S + 90_000
    told = {
        words(book, forged.text),
        words(book, unknown.text),
        words(used, forged.text),
        words(book, forged.text, now_s=later_s),
        words(TokenBook(), token.text),
        words(book.withdrawn(token.token_id), token.text),
    }
    assert len(told) == 1


def test_a_token_may_live_for_up_to_thirty_days(authority: Authority) -> None:
    for life_s in (0, -5, MAX_TOKEN_LIFE_S + 1):
        with pytest.raises(InvalidRequestError, match="can't live for"):
            TokenBook().invite(authority.anchor, Role.NODE, now_s=NOW_S, random=Random(1).randbytes, life_s=life_s)


def test_a_full_book_makes_room_by_what_has_expired(authority: Authority) -> None:
    entry = invited(authority)[0].to_json().decode().removeprefix('{"format":1,"invitations":[').removesuffix("]}")
    token_id = entry.split('"token_id":"')[1][:16]
    entries = ",".join(entry.replace(token_id, f"{index:016x}") for index in range(MAX_TOKENS))
    full = TokenBook.from_json(f'{{"format":1,"invitations":[{entries}]}}'.encode())
    with pytest.raises(ResourceExhaustedError, match="tokens are out"):
        full.invite(authority.anchor, Role.NODE, now_s=NOW_S, random=Random(3).randbytes)
    book, _ = full.invite(authority.anchor, Role.NODE, now_s=NOW_S + 86400, random=Random(3).randbytes)
    assert len(book.invitations) == 1
    assert TokenBook.from_json(full.to_json()) == full


def test_two_tokens_never_share_an_id(authority: Authority) -> None:
    book, _ = invited(authority)
    with pytest.raises(ResourceExhaustedError, match="try again"):
        book.invite(authority.anchor, Role.NODE, now_s=NOW_S, random=Random(1).randbytes)


def test_a_book_comes_back_from_its_file(authority: Authority) -> None:
    book, token = invited(authority, Role.CLIENT)
    book, _ = book.invite(authority.anchor, Role.NODE, now_s=NOW_S, random=Random(2).randbytes)
    book, _ = book.redeem(token.text, MEMBER, NOW_S)
    assert TokenBook.from_json(book.to_json()) == book
    assert TokenBook.from_json(TokenBook().to_json()) == TokenBook()


GOOD = (
    '{"format":1,"invitations":[{"expires_s":5,"role":"node","secret_sha256":"' + "ab" * 32 + '",'
    '"token_id":"0123456789abcdef","used_by":""}]}'
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format":1', '"format":2'),
        ('"format":1', '"format":true'),
        ('"format":1', '"format":1,"format":1'),
        ('"expires_s":5', '"expires_s":5.0'),
        ('"expires_s":5', '"expires_s":"5"'),
        ('"expires_s":5,', ""),
        ('"expires_s":5', '"expires_s":5,"more":1'),
        ('"node"', '"root"'),
        ('"node"', '"NODE"'),
        ('"ab', '"AB'),
        ("0123456789abcdef", "0123456789abcde"),
        ('"used_by":""', '"used_by":"me"'),
        ("[{", "[[],{"),
        ("[{", '[{"expires_s":NaN},{'),
        ("]}", "]}]"),
        (GOOD, "[]"),
        (GOOD, "[" * 100_000),
        (GOOD, GOOD + " " * 2**20),
    ],
)
def test_a_damaged_book_is_refused(old: str, new: str) -> None:
    assert len(TokenBook.from_json(GOOD.encode()).invitations) == 1
    assert old in GOOD
    with pytest.raises(TrustError):
        TokenBook.from_json(GOOD.replace(old, new, 1).encode())


def test_a_book_that_lists_a_token_twice_is_refused() -> None:
    entry = GOOD.removeprefix('{"format":1,"invitations":[').removesuffix("]}")
    with pytest.raises(TrustError, match="twice"):
        TokenBook.from_json(GOOD.replace(entry, f"{entry},{entry}").encode())
