"""How a streaming call ended, as its peer said it.

A write that fails because the peer has just ended the call puts INTERNAL, "Internal error from Core", in place of what
the peer said (https://github.com/grpc/grpc/issues/36066): after that has come, when the call's callbacks have run
already, or before, and then it is what they are told. What the peer said comes once all that it sent has been read.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import grpc
import grpc.aio

T = TypeVar("T")

STATUS_GRACE_S = 0.5  # for what the peer said, once a write has failed: it comes on the same connection
_POLL_S = 0.01  # gRPC tells nobody when it puts that in the other's place


class CallEnd:
    """Remembers what the peer said.

    Args:
        call: that has just been made.
    """

    def __init__(self, call: Any) -> None:  # noqa: ANN401 - any kind of grpc.aio's calls
        self._call = call
        self._said: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._ended)

    async def failure(self, raised: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What to tell of a call that raised this; the code is OK where the peer ended it in good order.

        Where a write has failed and the peer's word has not come, it waits for that, STATUS_GRACE_S at most.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(STATUS_GRACE_S):
                await self._peers_word()
        return self._said or raised

    async def _peers_word(self) -> None:
        if self._said is None or not _is_of_a_write(self._said):
            return
        read_on = self._call._cython_call.receive_serialized_message  # noqa: SLF001 - `read` refuses by now
        with suppress(grpc.aio.InternalError):  # somebody else reads still
            while await read_on() is not grpc.aio.EOF:
                pass  # nobody asks for it any more
        while _is_of_a_write(self._said):
            await asyncio.sleep(_POLL_S)
            self._said = _status(self._call)

    def _ended(self, call: Any) -> None:  # noqa: ANN401
        if self._said is None:
            self._said = _status(call)


def _status(call: Any) -> grpc.aio.AioRpcError:  # noqa: ANN401
    """How a call has ended, by what gRPC says now."""
    return grpc.aio.AioRpcError(
        _known(call.code()), grpc.aio.Metadata(), _known(call.trailing_metadata()), _known(call.details())
    )


def _is_of_a_write(status: grpc.aio.AioRpcError) -> bool:
    return status.code() is grpc.StatusCode.INTERNAL and status.details() == "Internal error from Core"


def _known(answer: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that has nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as e:
        value: T = e.value
        return value
    answer.close()
    raise RuntimeError("gRPC tells of a call's end before it knows its status")
