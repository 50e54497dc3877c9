"""The certificates in the hands of gRPC and of the module ssl: who comes together with whom, and is seen as whom."""

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest

from admission.members import Member
from osai.core.admission import JOIN_NAME, Anchor, Authority, Role, read_peer, server_name

DEADLINE_S = 5.0


@pytest.fixture(scope="module")
def at_s() -> float:
    """The time: TLS looks at the clock by itself."""
    return time.time()


@pytest.fixture(scope="module")
def swarm(at_s: float) -> Authority:
    return Authority.create(at_s, Random(9).randbytes)


class Asking(grpc.GenericRpcHandler):
    """Answers every call with the certificate that it came with."""

    def service(self, _: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401 - a generic type to mypy alone
        async def answer(_: bytes, context: Any) -> bytes:  # noqa: ANN401 - a servicer's context
            return bytes(context.auth_context()["x509_pem_cert"][0])

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def serving(server: Member, anchor: Anchor) -> AsyncIterator[int]:
    """A gRPC server that asks for certificates of the swarm; its port."""
    credentials = grpc.ssl_server_credentials(
        [(server.key.pem, server.leaf)], root_certificates=anchor.pem, require_client_auth=True
    )
    it = grpc.aio.server()
    it.add_generic_rpc_handlers((Asking(),))
    port = it.add_secure_port("127.0.0.1:0", credentials)
    await it.start()
    try:
        yield port
    finally:
        await it.stop(0)


async def seen(port: int, dialler: Member, anchor: Anchor, name: str) -> bytes | None:
    """The certificate that the server sees; None where the two do not come together."""
    credentials = grpc.ssl_channel_credentials(anchor.pem, dialler.key.pem, dialler.leaf)
    options = (("grpc.ssl_target_name_override", name),)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        call: Any = channel.unary_unary("/any/thing")
        try:
            answer: bytes = await call(b"", timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as e:
            if e.code() is not grpc.StatusCode.UNAVAILABLE:  # that of a handshake that fails
                raise
            return None
    return answer


@pytest.mark.parametrize("role", list(Role))
async def test_a_server_sees_who_calls(swarm: Authority, role: Role, at_s: float) -> None:
    server, dialler = Member.of(swarm, Role.NODE, now_s=at_s), Member.of(swarm, role, now_s=at_s)
    async with serving(server, swarm.anchor) as port:
        shown = await seen(port, dialler, swarm.anchor, server_name(Role.NODE, server.peer.member_id))
    assert shown is not None
    assert read_peer(shown, swarm.anchor, at_s) == dialler.peer


async def test_a_node_is_met_under_its_own_names_alone(swarm: Authority, at_s: float) -> None:
    server, dialler = (Member.of(swarm, Role.NODE, now_s=at_s) for _ in range(2))
    mine, others = server.peer.member_id, dialler.peer.member_id
    async with serving(server, swarm.anchor) as port:
        assert await seen(port, dialler, swarm.anchor, server_name(Role.NODE))
        for name in (
            server_name(Role.NODE, others),
            server_name(Role.COORDINATOR),
            server_name(Role.COORDINATOR, mine),
            JOIN_NAME,
            mine,
            "localhost",
        ):
            assert await seen(port, dialler, swarm.anchor, name) is None, name


async def test_a_coordinator_is_met_by_role_by_id_and_by_joiners(swarm: Authority, at_s: float) -> None:
    server, dialler = Member.of(swarm, Role.COORDINATOR, now_s=at_s), Member.of(swarm, Role.CLIENT, now_s=at_s)
    async with serving(server, swarm.anchor) as port:
        for name in (server_name(Role.COORDINATOR), server_name(Role.COORDINATOR, server.peer.member_id), JOIN_NAME):
            assert await seen(port, dialler, swarm.anchor, name), name
        assert await seen(port, dialler, swarm.anchor, server_name(Role.NODE)) is None


async def test_a_client_poses_as_no_server(swarm: Authority, at_s: float) -> None:
    server, dialler = Member.of(swarm, Role.CLIENT, now_s=at_s), Member.of(swarm, Role.NODE, now_s=at_s)
    async with serving(server, swarm.anchor) as port:
        for name in (server_name(Role.NODE), server_name(Role.COORDINATOR), server.peer.member_id):
            assert await seen(port, dialler, swarm.anchor, name) is None, name


async def test_swarms_do_not_mix(swarm: Authority, at_s: float) -> None:
    other = Authority.create(at_s, Random(10).randbytes)
    mine, theirs = Member.of(swarm, Role.NODE, now_s=at_s), Member.of(other, Role.NODE, now_s=at_s)
    name = server_name(Role.NODE)
    async with serving(mine, swarm.anchor) as port:
        assert await seen(port, theirs, swarm.anchor, name) is None
        assert await seen(port, mine, other.anchor, name) is None
        assert await seen(port, mine, swarm.anchor, name)


def context_of(member: Member, anchor: Anchor, folder: Path, *, is_server: bool) -> ssl.SSLContext:
    file = folder / f"{member.peer.member_id}.pem"
    file.write_bytes(member.key.pem + member.leaf)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=anchor.pem.decode())
    context.load_cert_chain(file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def shaken(server: ssl.SSLContext, dialler: ssl.SSLContext, name: str) -> tuple[bytes | None, bytes | None]:
    """A handshake in memory: the certificates that the server and the dialler have seen."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (server.wrap_bio(up, down, server_side=True), dialler.wrap_bio(down, up, server_hostname=name))
    waiting = set(ends)
    for end in (*ends, *ends, *ends):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        waiting.discard(end)
    assert not waiting
    return ends[0].getpeercert(binary_form=True), ends[1].getpeercert(binary_form=True)


def test_the_module_ssl_holds_members_to_the_same_names(swarm: Authority, at_s: float, tmp_path: Path) -> None:
    server, dialler = Member.of(swarm, Role.NODE, now_s=at_s), Member.of(swarm, Role.COORDINATOR, now_s=at_s)
    here = context_of(server, swarm.anchor, tmp_path, is_server=True)
    there = context_of(dialler, swarm.anchor, tmp_path, is_server=False)
    shown = shaken(here, there, server_name(Role.NODE, server.peer.member_id))
    assert [read_peer(each or b"", swarm.anchor, at_s) for each in shown] == [dialler.peer, server.peer]
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
        shaken(here, there, server_name(Role.NODE, dialler.peer.member_id))
