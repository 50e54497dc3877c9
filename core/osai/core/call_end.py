"""How a streaming call ended, as its peer said it.

A write that fails because the peer has just ended the call overwrites what the peer said with INTERNAL, "Internal error
from Core" (https://github.com/grpc/grpc/issues/36066). The call's callbacks run before that.
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc
import grpc.aio

T = TypeVar("T")


class CallEnd:
    """Remembers the status that a call got first.

    Args:
        call: that has just been made.
    """

    def __init__(self, call: Any) -> None:  # noqa: ANN401 - any kind of grpc.aio's calls
        self._said: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._ended)

    def failure(self, raised: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What to tell of a call that raised this; the code is OK where the peer ended it in good order."""
        return self._said or raised

    def _ended(self, call: Any) -> None:  # noqa: ANN401
        if self._said is None:
            self._said = grpc.aio.AioRpcError(
                _known(call.code()), grpc.aio.Metadata(), _known(call.trailing_metadata()), _known(call.details())
            )


def _known(answer: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that has nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as e:
        value: T = e.value
        return value
    answer.close()
    raise RuntimeError("gRPC tells of a call's end before it knows its status")
