"""How many bytes of a span are read and verified."""

import threading
from collections.abc import Callable

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class CountedBytes:
    """Counts tensors' bytes as they come from the loading threads; the small files before them do not count."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._done = self._total = 0

    def expect(self, total: int) -> None:
        """From now on it is the tensors that come."""
        self._total = total

    def add(self, num_bytes: int) -> None:
        """So many more are read and verified."""
        if self._total:
            with self._lock:
                self._done += num_bytes
                self._progress(self._done, self._total)
