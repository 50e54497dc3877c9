"""When a session's next token is overdue. Pure."""

from osai.coordinator.sessions.config import SupervisionConfig

MIN_INTERVALS = 4  # until then the mean says little
WEIGHT = 0.125  # of the newest interval in the mean


class TokenPace:
    """Learns from the intervals between tokens of one session."""

    def __init__(self, config: SupervisionConfig) -> None:
        self._config = config
        self._mean_s = 0.0
        self._num_intervals = 0
        self._last_s: float | None = None
        self.num_nudges = 0  # since the last token

    def token(self, now_s: float) -> float:
        """A token has come; when the next one is overdue."""
        if self._last_s is not None:
            interval_s = now_s - self._last_s
            weight = WEIGHT if self._num_intervals else 1.0
            self._mean_s += weight * (interval_s - self._mean_s)
            self._num_intervals += 1
        self._last_s = now_s
        self.num_nudges = 0
        return now_s + self._interval_s()

    def began(self, now_s: float, num_rows: int, *, is_first: bool) -> float:
        """An epoch has begun, which computes `num_rows` rows until its first token; when that is overdue."""
        self._last_s = None  # what lies between is no interval
        config = self._config
        base_s = config.first_token_s if is_first else max(self._interval_s(), config.unmeasured_token_s)
        return (
            now_s
            + min(base_s * 2.0**self.num_nudges, max(base_s, config.next_token_s))
            + (config.prompt_token_s * num_rows)
        )

    def _interval_s(self) -> float:
        config = self._config
        if self._num_intervals < MIN_INTERVALS:
            return min(config.unmeasured_token_s, config.next_token_s)
        return min(max(config.least_token_s, config.token_factor * self._mean_s), config.next_token_s)
