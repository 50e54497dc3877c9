"""The bounds of the HTTP front door."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """What one request may cost before it is answered.

    Attributes:
        max_body_bytes: a longer body gets a 413; 10 MB hold the text of any context that is served today.
        body_deadline_s: for the whole body to arrive; 30 s carry 10 MB over 3 Mbit/s.
        max_incoming_bytes: of all bodies that are on their way in together; past it requests get a 503.
        send_deadline_s: for a client to take what waits for it; one that stalls longer holds KV blocks in vain.
    """

    max_body_bytes: int = 10_000_000
    body_deadline_s: float = 30.0
    max_incoming_bytes: int = 256_000_000
    send_deadline_s: float = 30.0
