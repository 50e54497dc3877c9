"""How long a client waits, and for what."""

from dataclasses import dataclass

from osai.core.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Deadlines of every wait, in seconds.

    Attributes:
        connect_s: to reach the coordinator and be greeted; three slow round trips and name resolution fit well.
        call_s: a short answer (models, swarm); it comes from the coordinator's memory.
        first_token_s: for the session to open, where it may queue, and again for the first token, as prefill of a long
            prompt takes minutes on slow nodes.
        next_token_s: from token to token; a reroute rebuilds a lost span's KV meanwhile, which may take many seconds.
            Any event starts it anew. While the coordinator says that it waits for nodes, it is allowed that time too.
        resume_s: how long a generation may be without a coordinator, from the loss of one until another, or the same
            once it is back, goes on with it; all losses since the last token count together. A restart takes about ten
            seconds. 0: it is not resumed.

    Raises:
        InvalidRequestError: if a deadline is not above zero, or `resume_s` below.
    """

    connect_s: float = 5.0
    call_s: float = 10.0
    first_token_s: float = 300.0
    next_token_s: float = 60.0
    resume_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("connect_s", "call_s", "first_token_s", "next_token_s"):
            if not getattr(self, name) > 0:  # also catches NaN
                raise InvalidRequestError(f"{name} is {getattr(self, name)}; a deadline must be above zero")
        if not self.resume_s >= 0:
            raise InvalidRequestError(f"resume_s is {self.resume_s}; it must be 0 or above")
