"""Looks at this machine and asks the coordinator. Every wait has a deadline; files that it makes, it removes."""

import asyncio
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import grpc.aio

from osai.core.addresses import reachable_host
from osai.core.admission.roles import Role
from osai.core.errors import OsaiError, SetupError
from osai.core.member_channel import member_channel
from osai.core.member_files import MemberFiles
from osai.core.member_tls import MemberTls
from osai.core.private_member import kept_tls
from osai.core.protocol import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, hello
from osai.core.rpc import error_of
from osai.core.state import IDENTITY_FILE, load_identity
from osai.core.trust_files import read_trust
from osai.node.coordinators import host_of, is_multiaddr
from osai.node.doctor.facts import CoordinatorFacts, DeviceFacts, DiskFacts, PortFacts, TrustFacts
from osai.node.metrics_server import is_loopback
from osai.proto import client_pb2, client_pb2_grpc, common_pb2

ASK_S = 5.0
MAX_PORTS = 2**16
WRITE_BYTES = 32 * 2**20
HTTP_DATE_S = 1.0  # the resolution of HTTP's Date
OURS = (OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION)


def look_at_device(device: str, dtype: str, memory_bytes: int | None) -> DeviceFacts:
    """The device that `osai-node join` would use."""
    try:
        import torch  # noqa: PLC0415 - takes seconds

        from osai.node.device import check_dtype, choose_dtype, find_device  # noqa: PLC0415
    except ImportError as e:
        return DeviceFacts(error=str(e), dtype=dtype)
    try:
        found = find_device(device)
        if dtype != "auto":
            check_dtype(choose_dtype(dtype, ""), found)
    except OsaiError as e:
        return DeviceFacts(torch=torch.__version__, error=e.message, dtype=dtype)
    on_cpu = found.type == "cpu"
    return DeviceFacts(
        torch=torch.__version__,
        device=found.description,
        free_bytes=memory_bytes or found.free_bytes,
        dtype=dtype,
        has_bfloat16=found.has_bfloat16,
        has_float16=not on_cpu or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()),  # noqa: SLF001
    )


def look_at_port(option: str, listen: str, announce: str | None, towards: str) -> PortFacts:
    """Whether an address can be listened on; `announce` is what peers are told, None where they are told nothing."""
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) >= MAX_PORTS:
        return PortFacts(option=option, listen=listen, error="it is no HOST:PORT")
    try:
        family, kind, number, _, at = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind(at)
            bound = probe.getsockname()[1]
    except OSError as e:
        return PortFacts(option=option, listen=listen, error=e.strerror or str(e))
    if announce is None:
        return PortFacts(option=option, listen=listen)
    told = announce or reachable_host(host, towards)
    if not told.rpartition(":")[2].isdecimal():
        told = f"{told}:{bound if int(port) else 'PORT'}"
    return PortFacts(
        option=option, listen=listen, announced=told, is_loopback=is_loopback(told.rpartition(":")[0].strip("[]"))
    )


def look_at_disk(folder: Path | None, wanted_bytes: int | None) -> DiskFacts:
    """Room and speed of the disk under the cache."""
    if folder is None:
        return DiskFacts()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        free_bytes = shutil.disk_usage(there).free
        num_bytes = min(WRITE_BYTES, free_bytes // 4)
        with tempfile.NamedTemporaryFile(dir=there, prefix=".osai-doctor-") as file:
            data, begun_s = os.urandom(num_bytes), time.perf_counter()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            spent_s = time.perf_counter() - begun_s
    except OSError as e:
        return DiskFacts(folder=str(folder), error=e.strerror or str(e))
    return DiskFacts(
        folder=str(folder),
        free_bytes=free_bytes,
        wanted_bytes=wanted_bytes or 0,
        write_bytes_s=num_bytes / max(spent_s, 1e-6),
    )


def look_at_trust(files: Sequence[Path], state: Path, *, has_token: bool, allow_unsigned: bool) -> TrustFacts:
    """The files that say whom to believe, and who this node is. An identity is not made here."""
    error = state_error = certificate_error = ""
    certificate_s = None
    try:
        read_trust(files)
    except OsaiError as e:
        error = e.message
    try:
        if (state / IDENTITY_FILE).exists():
            load_identity(state)
        _check_writable(state)
    except OsaiError as e:
        state_error = e.message
    try:
        if MemberFiles.of(state).exist() and (tls := kept_tls(state, Role.NODE)):
            certificate_s = tls.me.not_after_s - time.time()
    except OsaiError as e:
        certificate_error = e.message
    return TrustFacts(
        num_files=len(files),
        error=error,
        state=str(state),
        state_error=state_error,
        certificate_s=certificate_s,
        certificate_error=certificate_error,
        has_token=has_token,
        allow_unsigned=allow_unsigned,
    )


def _check_writable(folder: Path) -> None:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise SetupError(f"the state folder {folder} can't be written")


async def ask_coordinator(address: str, state: Path) -> CoordinatorFacts:
    """Greet the coordinator as a node would, and look at its clock."""
    if not address:
        return CoordinatorFacts()
    try:
        if is_multiaddr(address):
            return CoordinatorFacts(error=f"{address} is a libp2p address, which is not asked")
        connect_s = await _connected(address)
    except OsaiError as e:
        return CoordinatorFacts(address=address, error=e.message)
    except (OSError, TimeoutError) as e:
        return CoordinatorFacts(address=address, error=str(e) or f"no answer within {ASK_S:.0f} s")
    try:
        greeting, http_address = await _greeted(address, _tls(state))
    except OsaiError as e:
        return CoordinatorFacts(address=address, connect_s=connect_s, error=e.message)
    ahead_s, uncertain_s = await _clock(http_address) if tells_its_time(http_address, address) else (None, 0.0)
    return CoordinatorFacts(
        address=address,
        connect_s=connect_s,
        software=greeting.software[:100],
        protocols=(greeting.protocol_version, max(greeting.protocol_version, greeting.newest_version)),
        ours=OURS,
        ahead_s=ahead_s,
        uncertain_s=uncertain_s,
    )


def _tls(state: Path) -> MemberTls | None:
    with suppress(OsaiError):  # it has a check of its own
        return kept_tls(state, Role.NODE)
    return None


async def _connected(address: str) -> float:
    """Seconds until TCP was connected."""
    begun_s = time.perf_counter()
    async with asyncio.timeout(ASK_S):
        _, writer = await asyncio.open_connection(host_of(address), int(address.rpartition(":")[2]))
    spent_s = time.perf_counter() - begun_s
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return spent_s


async def _greeted(address: str, tls: MemberTls | None) -> tuple[common_pb2.Hello, str]:
    """The coordinator's greeting, and the address of its HTTP; empty if it does not tell."""
    async with member_channel(address, tls, Role.COORDINATOR) as channel:
        stub = client_pb2_grpc.CoordinatorStub(channel)
        try:
            greeting: common_pb2.Hello = await stub.Greet(hello(), timeout=ASK_S)
        except grpc.aio.AioRpcError as e:
            raise error_of(e, address) from e
        try:
            swarm = await stub.GetSwarm(client_pb2.GetSwarmRequest(), timeout=ASK_S)
        except grpc.aio.AioRpcError:  # it asks for an API key
            return greeting, ""
    return greeting, swarm.http_address


def tells_its_time(http_address: str, address: str) -> bool:
    """Whether HTTP there is the coordinator's, and not this machine's own: private swarms have it on loopback."""
    try:
        parts = urlsplit(http_address)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and (not is_loopback(host) or is_loopback(host_of(address)))


async def _clock(http_address: str) -> tuple[float | None, float]:
    """By how much this machine's clock is ahead of that of an HTTP server, and how uncertain that is; seconds."""
    try:
        timeout = aiohttp.ClientTimeout(total=ASK_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            asked_s = time.time()
            # nothing is believed of what is read but the time, and nothing is sent
            async with session.head(f"{http_address}/healthz", ssl=False, allow_redirects=False) as answer:
                answered_s, date = time.time(), answer.headers.get("Date", "")
        their_s = parsedate_to_datetime(date).timestamp() + HTTP_DATE_S / 2  # which leaves out the fraction
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None, 0.0
    return (asked_s + answered_s) / 2 - their_s, (answered_s - asked_s) / 2 + HTTP_DATE_S / 2
