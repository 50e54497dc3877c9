"""The admission service: enrolment by token, renewal by certificate, the revocation list."""

import asyncio
import logging
import time
from typing import Any

from osai.core.admission.revocation import unseal
from osai.core.enrolment import read_request
from osai.core.errors import OsaiError, ProtocolMismatchError, ResourceExhaustedError
from osai.core.member_tls import MemberTls, peer_certificate
from osai.core.protocol import check_hello
from osai.core.rpc import abort
from osai.core.swarm_folder import SwarmFolder
from osai.proto import admission_pb2, admission_pb2_grpc

log = logging.getLogger(__name__)

MAX_ENROLLING = 4  # at once: each reads and writes files; the others wait, and no more than MAX_WAITING of them
MAX_WAITING = 64


class AdmissionService(admission_pb2_grpc.AdmissionServicer):
    """Serves osai.v1.Admission, to joiners and to members; osai.core.gatekeeper tells them apart.

    Args:
        tls: of this coordinator.
        authority: the swarm's folder; None where another coordinator has it.

    Attributes:
        sealed: the newest revocation list.
    """

    def __init__(self, tls: MemberTls, authority: SwarmFolder | None) -> None:
        self._tls = tls
        self._authority = authority
        self._turn = asyncio.Semaphore(MAX_ENROLLING)
        self._num_waiting = 0
        self.sealed = b""

    async def Enrol(self, request: admission_pb2.EnrolRequest, context: Any) -> admission_pb2.Admitted:  # noqa: N802, ANN401
        """A certificate for a token."""
        try:
            check_hello(request.hello)
            return await self._enrol(request)
        except OsaiError as e:
            log.warning("refused to enrol %s: %s", context.peer(), e)
            await abort(context, e)

    async def _enrol(self, request: admission_pb2.EnrolRequest) -> admission_pb2.Admitted:
        if self._authority is None:
            raise _elsewhere()
        if self._num_waiting >= MAX_WAITING:
            raise ResourceExhaustedError("too many members join at once: try again in some seconds")
        self._num_waiting += 1
        try:
            async with self._turn:
                enrolled = await asyncio.to_thread(
                    self._authority.enrol, request.token, read_request(request.request), time.time()
                )
        finally:
            self._num_waiting -= 1
        log.info("member %s has enrolled", enrolled.member_id)
        return admission_pb2.Admitted(
            certificate=enrolled.leaf, revocations=await asyncio.to_thread(self._authority.sealed_revocations)
        )

    async def Renew(self, request: admission_pb2.RenewRequest, context: Any) -> admission_pb2.Admitted:  # noqa: N802, ANN401
        """A new certificate for a member, in place of the one that it shows."""
        try:
            if self._authority is None:
                raise _elsewhere()
            peer = self._tls.peer_of(peer_certificate(context))
            leaf = await asyncio.to_thread(self._authority.renew, peer, read_request(request.request), time.time())
        except OsaiError as e:
            log.warning("refused to renew the certificate of %s: %s", context.peer(), e)
            await abort(context, e)
        return admission_pb2.Admitted(certificate=leaf, revocations=self.sealed)

    async def Revocations(  # noqa: N802
        self,
        request: admission_pb2.RevocationsRequest,
        context: Any,  # noqa: ANN401, ARG002
    ) -> admission_pb2.SealedRevocations:
        """The newest list, where the asker has an older one."""
        known = unseal(self.sealed, self._tls.credentials.anchor).version if self.sealed else 0
        return admission_pb2.SealedRevocations(sealed=self.sealed if known > request.known_version else b"")


def _elsewhere() -> ProtocolMismatchError:
    return ProtocolMismatchError(
        "this coordinator does not hold the swarm's authority: name the one that was started with --swarm"
    )
