"""Admission into private swarms: who gets in, and what it may do there. Pure; docs/security.md is the specification."""

from osai.core.admission.access import Caller, check_answer, check_call, check_greeting, check_sent
from osai.core.admission.authority import LEAF_LIFE_S, Anchor, Authority, RandomBytes
from osai.core.admission.credentials import (
    Applicant,
    Credentials,
    LeafRequest,
    check_request,
    enrolling,
    renewal_due_s,
    renewing,
    request_leaf,
)
from osai.core.admission.gate import Gate
from osai.core.admission.issuer import Enrolled, enrol, renew
from osai.core.admission.ownership import SessionParties, check_open
from osai.core.admission.peer import Peer, read_peer
from osai.core.admission.revocation import RevocationList, seal, unseal
from osai.core.admission.roles import JOIN_NAME, Role, is_member_id, server_name
from osai.core.admission.tls_key import TlsKey
from osai.core.admission.token_book import TOKEN_LIFE_S, Invitation, TokenBook
from osai.core.admission.tokens import JoinToken

__all__ = [
    "JOIN_NAME",
    "LEAF_LIFE_S",
    "TOKEN_LIFE_S",
    "Anchor",
    "Applicant",
    "Authority",
    "Caller",
    "Credentials",
    "Enrolled",
    "Gate",
    "Invitation",
    "JoinToken",
    "LeafRequest",
    "Peer",
    "RandomBytes",
    "RevocationList",
    "Role",
    "SessionParties",
    "TlsKey",
    "TokenBook",
    "check_answer",
    "check_call",
    "check_greeting",
    "check_open",
    "check_request",
    "check_sent",
    "enrol",
    "enrolling",
    "is_member_id",
    "read_peer",
    "renew",
    "renewal_due_s",
    "renewing",
    "request_leaf",
    "seal",
    "server_name",
    "unseal",
]
