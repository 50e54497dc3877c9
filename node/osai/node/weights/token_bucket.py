"""How fast something may go out: so many bytes a second, with short bursts. Pure."""


class TokenBucket:
    """Counts what has gone out.

    Args:
        bytes_a_second: in the long run; above 0.
        burst_bytes: at once, after a rest.
        now_s: seconds of any steady clock.
    """

    def __init__(self, bytes_a_second: float, burst_bytes: float, now_s: float) -> None:
        self._rate = bytes_a_second
        self._burst = burst_bytes
        self._left = burst_bytes
        self._at_s = now_s

    def take(self, num_bytes: int, now_s: float) -> float:
        """Count bytes that are to go out, and say for how many seconds they must wait.

        Each is counted as it comes: who comes later waits for those before. What is larger than the burst is let
        through at the same rate.
        """
        self._left = min(self._burst, self._left + self._rate * max(now_s - self._at_s, 0.0))
        self._at_s = max(now_s, self._at_s)
        self._left -= num_bytes
        return max(-self._left / self._rate, 0.0)
