"""A rate that allows bursts: so much a second in the long run, so much at once. Pure: it is told the time."""

from dataclasses import dataclass
from typing import Self


@dataclass(slots=True)
class TokenBucket:
    """Fills at a rate; what is taken leaves it, and may leave it owing.

    Attributes:
        rate: a second; above 0.
        most: that it holds: the burst.
        left: that it holds now; negative for what is owed.
        at_s: seconds of any steady clock, when that was so.
    """

    rate: float
    most: float
    left: float
    at_s: float

    @classmethod
    def full(cls, rate: float, most: float, now_s: float) -> Self:
        """A new one."""
        return cls(rate, most, most, now_s)

    def refill(self, now_s: float) -> None:
        """Time has passed; a clock that goes back fills nothing."""
        self.left = min(self.most, self.left + self.rate * max(now_s - self.at_s, 0.0))
        self.at_s = max(now_s, self.at_s)

    def is_full(self, now_s: float) -> bool:
        """Whether it has rested: then it is as good as a new one."""
        self.refill(now_s)
        return self.left >= self.most

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` may be taken without owing; what is larger than the bucket may once it is full."""
        return max(min(amount, self.most) - self.left, 0.0) / self.rate

    def take(self, amount: float, now_s: float) -> float:
        """Take something, and say for how many seconds it is still owed.

        Who comes later waits for those before. What is larger than the burst is let through at the same rate.
        """
        self.refill(now_s)
        self.left -= amount
        return max(-self.left / self.rate, 0.0)
