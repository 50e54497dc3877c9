"""The revocation list: members and certificates that are believed no longer, signed by the authority. Pure.

The S numbers are clauses of docs/security.md.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from osai.core.admission.authority import CLOCK_SKEW_S, MAX_LEAF_LIFE_S, Anchor, Authority
from osai.core.admission.peer import Peer
from osai.core.admission.roles import is_member_id
from osai.core.errors import ResourceExhaustedError, TrustError
from osai.core.manifest.encode import canonical
from osai.core.strict_json import Fields, fields_of, read_json

LIST_LIFE_S = 86400  # S15: as long as a leaf's, so that whoever holds lists back gains nothing
MAX_REVOKED = 10_000  # of members, and of certificates
MAX_LIST_BYTES = 2**20  # 2 times 10,000 entries take less; it goes into one gRPC message
MAX_INT = 2**53 - 1  # every JSON reader has it exactly
FORMAT = 1
_CONTEXT = b"osai.v1.revocations\0"  # S14: no signature made for anything else is one of a list
_SERIAL = re.compile("[0-9a-f]{32}")
_SIGNATURE = re.compile("(?:[0-9a-f]{2}){8,80}")  # ECDSA in DER: at most 72 bytes for P-256
_FILE: Fields = {"signature": str, "signed": dict}
_SIGNED: Fields = {
    "format": int,
    "swarm_id": str,
    "version": int,
    "issued_s": int,
    "not_after_s": int,
    "members": dict,
    "serials": dict,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """Who is out (S13). Times are whole seconds since 1970.

    Attributes:
        version: rises with every list of the swarm.
        not_after_s: when the list itself ends.
        members: ids, each with when it was revoked: none of their certificates counts, and none is issued to them.
        serials: numbers of certificates, 32 hex digits, each with when it was revoked.
    """

    swarm_id: str
    version: int = 0
    issued_s: int = 0
    not_after_s: int = 0
    members: Mapping[str, int] = field(default_factory=dict)
    serials: Mapping[str, int] = field(default_factory=dict)

    def accepts(self, peer: Peer) -> bool:
        """Whether neither the member nor its certificate is revoked."""
        return self.accepts_id(peer.member_id) and serial_text(peer.serial) not in self.serials

    def accepts_id(self, member_id: str) -> bool:
        """Whether a member is not revoked; for who dials it, and has not seen its certificate (S16)."""
        return member_id not in self.members

    def is_current(self, now_s: float) -> bool:
        """Whether the list has not ended; by one that has, nobody can be judged (S15)."""
        return now_s < self.not_after_s

    def is_newer_than(self, other: "RevocationList") -> bool:
        """Whether it takes the place of another list of the swarm (S14): the higher version does."""
        return self.version > other.version

    def revoking_member(self, member_id: str, now_s: float) -> Self:
        """A list that refuses a member, whatever certificate it shows."""
        return replace(self, members={**self.members, member_id: int(now_s)})

    def restoring_member(self, member_id: str) -> Self:
        """A list that refuses a member no longer; an id that is not listed is no error."""
        return replace(self, members={each: at for each, at in self.members.items() if each != member_id})

    def revoking_serial(self, serial: int, now_s: float) -> Self:
        """A list that refuses one certificate: its key was lost, and its member has another."""
        return replace(self, serials={**self.serials, serial_text(serial): int(now_s)})

    def next(self, now_s: float, life_s: int = LIST_LIFE_S) -> Self:
        """The list as it is to be signed now: a higher version, also where the last one was lost (S14).

        Certificates that have ended since are left out.
        """
        latest_s = now_s - MAX_LEAF_LIFE_S - CLOCK_SKEW_S
        return replace(
            self,
            version=max(self.version + 1, int(now_s * 1000)),
            issued_s=int(now_s),
            not_after_s=int(now_s) + life_s,
            serials={serial: at for serial, at in self.serials.items() if at >= latest_s},
        )


def serial_text(serial: int) -> str:
    """A certificate's number as the list has it."""
    return f"{serial:032x}"


def seal(revocations: RevocationList, authority: Authority) -> bytes:
    """The list as it travels: `{"signature": ..., "signed": {...}}` in canonical JSON (S14).

    Raises:
        TrustError: if the list is of another swarm or breaks a rule.
        ResourceExhaustedError: if too many are revoked.
    """
    signed = {name: getattr(revocations, name) for name in _SIGNED if name != "format"} | {"format": FORMAT}
    if max(len(revocations.members), len(revocations.serials)) > MAX_REVOKED:
        raise ResourceExhaustedError(f"more than {MAX_REVOKED} are revoked: make a new swarm, and admit those who stay")
    _check(_fields(signed), authority.anchor)
    signature = authority.sign(_CONTEXT, canonical(signed))
    return canonical({"signature": signature.hex(), "signed": signed})


def unseal(data: bytes, anchor: Anchor) -> RevocationList:
    """The list in sealed bytes, if the authority has signed it; whether it is current is another question.

    Raises:
        TrustError: if it is oversized, malformed, of another swarm, or its signature is wrong.
    """
    file = fields_of("revocation list", read_json("revocation list", data, MAX_LIST_BYTES), _FILE)
    if not _SIGNATURE.fullmatch(file["signature"]):
        raise TrustError("the revocation list's signature is no hex number of its length")
    anchor.verify(_CONTEXT, _canonical(file["signed"]), bytes.fromhex(file["signature"]))  # S14: before it is read
    fields = _fields(file["signed"])
    _check(fields, anchor)
    return RevocationList(**{name: value for name, value in fields.items() if name != "format"})


def _canonical(signed: object) -> bytes:
    try:
        return canonical(signed)
    except (ValueError, RecursionError) as e:  # a lone surrogate, which JSON can write and UTF-8 can't
        raise TrustError(f"the revocation list is damaged: {e}") from e


def _fields(signed: object) -> dict[str, Any]:
    declared = signed.get("format") if isinstance(signed, dict) else None
    if type(declared) is int and declared != FORMAT:  # before the fields, which another format may have others of
        raise TrustError(f"revocation list format {declared} is unknown (this release reads {FORMAT}): upgrade osai")
    return fields_of("revocation list", signed, _SIGNED)


def _check(fields: Mapping[str, Any], anchor: Anchor) -> None:
    if fields["swarm_id"] != anchor.swarm_id:
        raise TrustError(f"the revocation list is of swarm {fields['swarm_id'][:80]!r}, this is {anchor.swarm_id}")
    if not 1 <= fields["version"] <= MAX_INT or not 0 <= fields["issued_s"] < fields["not_after_s"] <= MAX_INT:
        raise TrustError("the revocation list's version is below 1, or it ends before it begins")
    members, serials = fields["members"], fields["serials"]
    if max(len(members), len(serials)) > MAX_REVOKED:
        raise TrustError(f"a revocation list of more than {MAX_REVOKED} entries is refused")
    if not all(is_member_id(each) for each in members) or not all(map(_SERIAL.fullmatch, serials)):
        raise TrustError("the revocation list names something that is no member id or certificate number")
    if not all(type(at) is int and 0 <= at <= MAX_INT for at in (*members.values(), *serials.values())):
        raise TrustError("the revocation list gives a time that is none")
