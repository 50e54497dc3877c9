"""Joining a private swarm, and staying in it: the calls to its authority, from a member's side."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import grpc.aio

from osai.core.admission.authority import Anchor
from osai.core.admission.credentials import Credentials, LeafRequest, enrolling, renewing, request_leaf
from osai.core.admission.profile import MAX_CERTIFICATE_BYTES
from osai.core.admission.roles import JOIN_NAME, Role
from osai.core.admission.tls_key import TlsKey
from osai.core.admission.tokens import JoinToken
from osai.core.errors import UnavailableError
from osai.core.identity import Identity
from osai.core.member_channel import member_channel
from osai.core.member_tls import MemberTls
from osai.core.protocol import hello
from osai.core.rpc import PATIENT, channel_options, error_of
from osai.proto import admission_pb2, admission_pb2_grpc

R = TypeVar("R")

AUTHORITY_PREFIX = b"osai authority?\n"  # asks a coordinator's port for the swarm's certificate, which is no secret
DEADLINE_S = 10.0
ENROLMENT_MAX_BYTES = 2 * 2**20  # a revocation list has 1 MiB at most


async def fetch_authority(address: str, token: JoinToken) -> Anchor:
    """The swarm's certificate, from a coordinator that is believed only if it is the one that the token names (S10).

    Raises:
        UnavailableError: if nobody answers, or not as a coordinator of a private swarm does.
        TrustError: if it is another swarm's.
    """
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                writer.write(AUTHORITY_PREFIX)
                certificate = await reader.read(MAX_CERTIFICATE_BYTES + 1)
                while more := await reader.read(MAX_CERTIFICATE_BYTES + 1):
                    certificate += more
                    if len(certificate) > MAX_CERTIFICATE_BYTES:
                        break
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError) as e:
        raise UnavailableError(
            f"no answer from {address} ({e or 'in time'}): is the address right, and is the coordinator running?"
        ) from e
    if not certificate:
        raise UnavailableError(f"{address} does not serve a private swarm: was the coordinator started with --swarm?")
    return token.check_authority(certificate)


async def enrol(
    address: str, token_text: str, identity: Identity, role: Role, now_s: float
) -> tuple[Credentials, bytes]:
    """Join with a token: this member's credentials, and the sealed revocation list.

    Raises:
        UnavailableError: if the coordinator can't be reached.
        TrustError: if it is of another swarm, or does not take the token.
    """
    token = JoinToken.parse(token_text)
    anchor = await fetch_authority(address, token)
    key = TlsKey.generate()
    request = request_leaf(identity, key, anchor.swarm_id, enrolling(token.token_id))
    options = (
        *channel_options(ENROLMENT_MAX_BYTES, PATIENT),
        ("grpc.ssl_target_name_override", JOIN_NAME),
    )
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(anchor.pem), options=options) as channel:
        enrolling_call = admission_pb2_grpc.AdmissionStub(channel).Enrol(
            admission_pb2.EnrolRequest(hello=hello(identity.node_id), token=token.text, request=write_request(request)),
            timeout=DEADLINE_S,
        )
        admitted = await _answer(enrolling_call, address)
    credentials = Credentials.read(
        admitted.certificate, key, anchor, role=role, member_id=identity.node_id, now_s=now_s
    )
    return credentials, admitted.revocations


async def renew(address: str, tls: MemberTls, identity: Identity, now_s: float) -> tuple[Credentials, bytes]:
    """A new certificate in place of the present one, and the sealed revocation list. Errors as of `enrol`."""
    present, key = tls.credentials, TlsKey.generate()
    request = request_leaf(identity, key, present.anchor.swarm_id, renewing(present.me))
    async with member_channel(address, tls, Role.COORDINATOR, max_message_bytes=ENROLMENT_MAX_BYTES) as channel:
        call = admission_pb2_grpc.AdmissionStub(channel).Renew(
            admission_pb2.RenewRequest(request=write_request(request)), timeout=DEADLINE_S
        )
        admitted = await _answer(call, address)
    me = present.me
    credentials = Credentials.read(
        admitted.certificate, key, present.anchor, role=me.role, member_id=me.member_id, now_s=now_s
    )
    return credentials, admitted.revocations


async def newer_revocations(address: str, tls: MemberTls) -> bytes:
    """The sealed list that the coordinator at `address` has, empty where it is not newer. Errors as of `enrol`."""
    async with member_channel(address, tls, Role.COORDINATOR, max_message_bytes=ENROLMENT_MAX_BYTES) as channel:
        call = admission_pb2_grpc.AdmissionStub(channel).Revocations(
            admission_pb2.RevocationsRequest(known_version=tls.revocations_version), timeout=DEADLINE_S
        )
        return bytes((await _answer(call, address)).sealed)


async def _answer(call: Awaitable[R], address: str) -> R:
    try:
        return await call
    except grpc.aio.AioRpcError as e:
        raise error_of(e, address) from e


def write_request(request: LeafRequest) -> admission_pb2.LeafRequest:
    """A request as it travels."""
    return admission_pb2.LeafRequest(csr=request.csr, public_key=request.public_key, signature=request.signature)


def read_request(wire: admission_pb2.LeafRequest) -> LeafRequest:
    """A request as it came; nothing of it is believed yet."""
    return LeafRequest(csr=wire.csr, public_key=wire.public_key, signature=wire.signature)
