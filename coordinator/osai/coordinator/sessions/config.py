"""How long a session may take for what, and how hard it tries."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionConfig:
    """Bounds of one session's supervision.

    Attributes:
        open_s: until every stage has said that it is open; a stage may be in the middle of a long step.
        first_token_s: until the first token, and prompt_token_s more for each prompt token whose KV is not there yet.
        prompt_token_s: 20 tokens a second of prefill is slower than any node worth having.
        next_token_s: between tokens at most; above any step of a healthy pipeline, below a person's patience.
        least_token_s: between tokens at least: a node at work on others' prompts is not stuck.
        token_factor: so many times the recent mean between two tokens may pass before the next one is overdue.
        unmeasured_token_s: between tokens while too few have come to know the mean.
        max_nudges: epochs in a row that an overdue token begins, each of which is given twice the time.
        coverage_wait_s: for nodes where no pipeline is to be had; a node that restarts takes some ten seconds.
        retry_s: between looks for a pipeline meanwhile, besides those when the swarm changes.
        settle_s: for which new requests wait too, after a coordinator's start, or while nodes may come back that were
            lost: those that are there dial in meanwhile. None here, where nodes are known from the first on.
        notice_s: between what the client hears of that wait.
        max_reroutes: in a row without a new token; a swarm that loses a node in each of them is not worth more.
        move_s: between reroutes that nothing but a better pipeline asks for: each costs a little.
        standby_retry_s: between looks for a standby where a stage has none.
        handover_rows: a follower that is so few rows behind takes over; less than one decode step's worth of prefill.
    """

    open_s: float = 10.0
    first_token_s: float = 30.0
    prompt_token_s: float = 0.05
    next_token_s: float = 30.0
    least_token_s: float = 2.0
    token_factor: float = 10.0
    unmeasured_token_s: float = 10.0
    max_nudges: int = 3
    coverage_wait_s: float = 30.0
    retry_s: float = 0.5
    settle_s: float = 0.0
    notice_s: float = 5.0
    max_reroutes: int = 16
    move_s: float = 10.0
    standby_retry_s: float = 2.0
    handover_rows: int = 16
