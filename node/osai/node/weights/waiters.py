"""Threads that wait for chunks. All of it is called on the loop."""

from concurrent.futures import Future

from osai.core.errors import OsaiError

Waiter = Future[bytearray]


class Waiters:
    """By chunk number. Whoever waits gets memory of its own."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[Waiter]] = {}

    def add(self, number: int, waiter: Waiter) -> None:
        """One more waits."""
        self._waiting.setdefault(number, []).append(waiter)

    def give(self, number: int, data: bytes | bytearray) -> None:
        """A chunk is here."""
        waiting = self._waiting.pop(number, [])
        copies = [bytearray(data) for _ in waiting[1:]]  # before the first one may change its memory
        own = data if isinstance(data, bytearray) else bytearray(data)
        for waiter, memory in zip(waiting, [own, *copies], strict=False):
            if not waiter.done():
                waiter.set_result(memory)

    def fail(self, number: int, error: OsaiError) -> None:
        """A chunk will not come."""
        for waiter in self._waiting.pop(number, []):
            if not waiter.done():
                waiter.set_exception(error)

    def fail_all(self, error: OsaiError) -> None:
        """None will."""
        for number in list(self._waiting):
            self.fail(number, error)
