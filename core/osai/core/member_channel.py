"""Channels to other members: in plain text in a public swarm, with both sides' certificates in a private one."""

import grpc.aio

from osai.core.admission.roles import Role
from osai.core.member_tls import MemberTls
from osai.core.rpc import CLIENT_API_MAX_BYTES, PATIENT, Pings, channel_options, insecure_channel


def member_channel(
    address: str,
    tls: MemberTls | None,
    role: Role,
    member_id: str = "",
    *,
    max_message_bytes: int = CLIENT_API_MAX_BYTES,
    pings: Pings = PATIENT,
) -> grpc.aio.Channel:
    """A channel to `address` (host:port); connects on its first call.

    Args:
        address: where the member listens.
        tls: of this member; None in a public swarm.
        role: of the member that is dialled.
        member_id: its id, where it is known: its certificate must be that member's (S6).
        max_message_bytes: of a message, either way.
        pings: by which a frozen peer is noticed.
    """
    if tls is None:
        return insecure_channel(address, max_message_bytes=max_message_bytes, pings=pings)
    options = (*channel_options(max_message_bytes, pings), *tls.dial_options(role, member_id))
    return grpc.aio.secure_channel(address, tls.channel_credentials(), options=options)
