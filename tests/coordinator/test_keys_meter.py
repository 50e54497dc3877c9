"""Quotas: nothing over them in any window, whoever waits gets in when told, and all comes back."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osai.coordinator.keys.api_key import Quota
from osai.coordinator.keys.meter import Meter, QuotaExceededError, Ticket
from osai.coordinator.keys.window import DAY, MINUTE, Window, WindowSize
from osai.core.errors import InvalidRequestError

MINUTE_S = 60.0
DAY_S = 86_400.0
QUOTAS = st.builds(
    Quota,
    requests_per_minute=st.integers(1, 6),
    tokens_per_minute=st.integers(5, 30),
    tokens_per_day=st.integers(5, 60),
    max_concurrent=st.integers(0, 3),
)
# after so many seconds, so many tokens, for which of those that run (None: a new one), and whether it ends then
STEPS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 130), st.floats(0, 40_000)),
        st.integers(0, 8),
        st.one_of(st.none(), st.integers(0, 5)),
        st.booleans(),
    ),
    min_size=20,
    max_size=60,
)


class History:
    """A meter, and what really got through it."""

    def __init__(self, quota: Quota, now_s: float) -> None:
        self.meter = Meter("k", quota)
        self.now_s = now_s
        self.running: list[Ticket] = []
        self.requests: list[float] = []
        self.tokens: list[tuple[float, int]] = []

    def step(self, num_tokens: int, which: int | None, *, ends: bool) -> QuotaExceededError | None:
        try:
            if which is None or not self.running:
                self.running.append(self.meter.admit(num_tokens, self.now_s))
                self.requests.append(self.now_s)
                return None
            ticket = self.running[which % len(self.running)]
            if ends:
                self.running.remove(ticket)
                self.meter.settle(ticket)
                return None
            self.meter.spend(ticket, num_tokens, self.now_s)
            self.tokens.append((self.now_s, num_tokens))
        except InvalidRequestError:
            return None
        except QuotaExceededError as e:
            return e
        return None

    def most_tokens(self, window_s: float) -> int:
        return max((sum(n for at_s, n in self.tokens if end_s - window_s < at_s <= end_s)
                    for end_s, _ in self.tokens), default=0)  # fmt: skip

    def most_requests(self, window_s: float) -> int:
        return max((sum(end_s - window_s < at_s <= end_s for at_s in self.requests)
                    for end_s in self.requests), default=0)  # fmt: skip


@settings(max_examples=200)
@given(QUOTAS, st.floats(0, 1e9), STEPS)
def test_no_window_has_more_than_the_quota(
    quota: Quota, begin_s: float, steps: list[tuple[float, int, int | None, bool]]
) -> None:
    history = History(quota, begin_s)
    for after_s, num_tokens, which, ends in steps:
        history.now_s += after_s
        history.step(num_tokens, which, ends=ends)
        assert not quota.max_concurrent or history.meter.num_running <= quota.max_concurrent
    assert history.most_requests(MINUTE_S) <= quota.requests_per_minute
    assert history.most_tokens(MINUTE_S) <= quota.tokens_per_minute
    assert history.most_tokens(DAY_S) <= quota.tokens_per_day


@settings(max_examples=200)
@given(QUOTAS, st.floats(0, 1e9), STEPS, st.integers(1, 8))
def test_whoever_is_told_when_to_come_again_gets_in_then(
    quota: Quota, begin_s: float, steps: list[tuple[float, int, int | None, bool]], num_tokens: int
) -> None:
    history = History(replace(quota, max_concurrent=0), begin_s)
    for after_s, num_others, which, ends in steps:
        history.now_s += after_s
        history.step(num_others, which, ends=ends)
    for _ in range(20):
        if (refused := history.step(num_tokens, None, ends=False)) is not None:
            break
    else:
        return
    num_reserved = sum(ticket.reserved for ticket in history.running)
    if num_reserved + num_tokens > min(quota.tokens_per_minute, quota.tokens_per_day):
        return  # it waits for others to end, too, and nobody knows when they do
    assert 0 < refused.retry_after_s <= DAY_S + DAY.slot_s + 1
    history.meter.admit(num_tokens, history.now_s + refused.retry_after_s)


@given(QUOTAS, st.floats(0, 1e9), STEPS)
def test_all_comes_back(quota: Quota, begin_s: float, steps: list[tuple[float, int, int | None, bool]]) -> None:
    history = History(quota, begin_s)
    for after_s, num_tokens, which, ends in steps:
        history.now_s += after_s
        history.step(num_tokens, which, ends=ends)
    for ticket in history.running:
        history.meter.settle(ticket)
        history.meter.settle(ticket)  # which does nothing
    history.meter.admit(min(quota.tokens_per_minute, quota.tokens_per_day), history.now_s + DAY_S + DAY.slot_s)


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 5)), max_size=40), st.sampled_from([MINUTE, DAY]))
def test_a_use_counts_for_the_window_and_at_most_a_slot_longer(uses: list[tuple[float, int]], size: WindowSize) -> None:
    window, now_s, done = Window(size), 0.0, list[tuple[float, int]]()
    for after_slots, amount in uses:
        now_s += after_slots * size.slot_s
        window.add(amount, now_s)
        done.append((now_s, amount))
        whole_s = size.slot_s * size.num_slots
        least = sum(amount for at_s, amount in done if at_s > now_s - whole_s)
        most = sum(amount for at_s, amount in done if at_s > now_s - whole_s - size.slot_s)
        assert least <= window.used(now_s) <= most


def test_a_clock_that_goes_back_forgets_nothing() -> None:
    window = Window(MINUTE)
    window.add(3, 100.0)
    window.add(2, 10.0)
    assert window.used(10.0) == window.used(100.0) == window.used(160.0) == 5
    assert window.used(161.0) == 0


def test_a_request_for_more_than_the_quota_is_told_to_ask_for_less() -> None:
    meter = Meter("k", Quota(tokens_per_minute=100, tokens_per_day=50))
    with pytest.raises(InvalidRequestError, match="50 tokens a day; this request is for about 51"):
        meter.admit(51, 0.0)
    ticket = meter.admit(50, 0.0)
    with pytest.raises(InvalidRequestError, match="ask for fewer"):
        meter.spend(ticket, 20, 0.0, keep=31)


def test_what_is_set_aside_is_there_when_it_is_needed() -> None:
    meter = Meter("k", Quota(tokens_per_minute=100))
    first = meter.admit(60, 0.0)
    second = meter.admit(40, 0.0)
    with pytest.raises(QuotaExceededError, match="100 tokens a minute: try again when another request has ended"):
        meter.admit(1, 0.0)
    for second_s in range(60):
        meter.spend(first, 1, float(second_s))
        with pytest.raises(QuotaExceededError):
            meter.admit(1, float(second_s))
    with pytest.raises(QuotaExceededError, match="try again in 2 s"):
        meter.spend(first, 1, 59.5)
    meter.settle(second)
    meter.spend(first, 40, 59.5)
    with pytest.raises(QuotaExceededError):
        meter.spend(first, 1, 60.9)
    meter.spend(first, 1, 61.0)  # the very first one counts no longer


def test_tokens_set_aside_are_corrected_once_the_prompt_is_counted() -> None:
    meter = Meter("k", Quota(tokens_per_minute=100))
    ticket = meter.admit(90, 0.0)
    meter.spend(ticket, 10, 0.0, keep=20)  # thought to have 70 more
    other = meter.admit(70, 0.0)
    meter.settle(other)
    meter.spend(ticket, 20, 0.0)
    longer = meter.admit(10, 0.0)
    with pytest.raises(QuotaExceededError):
        meter.spend(longer, 30, 0.0, keep=41)
    meter.spend(longer, 30, 0.0, keep=40)


def test_concurrent_generations_are_counted() -> None:
    meter = Meter("k", Quota(max_concurrent=2))
    tickets = [meter.admit(0, 0.0) for _ in range(2)]
    with pytest.raises(QuotaExceededError, match="2 generations at once") as caught:
        meter.admit(0, 0.0)
    assert caught.value.retry_after_s == 0.0
    meter.settle(tickets[0])
    meter.admit(0, 0.0)


def test_refused_requests_do_not_count_and_a_new_quota_holds_at_once() -> None:
    meter = Meter("k", Quota(requests_per_minute=2))
    for _ in range(2):
        meter.admit(1, 0.5)
    for _ in range(5):
        with pytest.raises(QuotaExceededError) as caught:
            meter.admit(1, 10.0)
    assert caught.value.retry_after_s == pytest.approx(51.0, abs=0.01)
    assert caught.value.subject == "k"
    meter.quota = Quota(requests_per_minute=3)
    meter.admit(1, 10.0)
    meter.quota = Quota()
    for _ in range(100):
        meter.admit(10**6, 10.0)


def test_waiting_is_for_as_many_slots_as_it_takes_and_for_the_longest_of_the_quotas() -> None:
    meter = Meter("k", Quota(tokens_per_minute=10, tokens_per_day=20))
    ticket = meter.admit(0, 0.0)
    for second_s in range(10):
        meter.spend(ticket, 1, float(second_s))
    assert waits(meter, 3, 9.0) == pytest.approx(63 - 9, abs=0.01)  # until three of them count no longer
    meter.spend(ticket, 10, 100.0)
    assert waits(meter, 10, 100.0) == pytest.approx(DAY_S + DAY.slot_s - 100, abs=0.01)
    with pytest.raises(QuotaExceededError, match="20 tokens a day"):
        meter.admit(1, 200.0)
    meter.admit(10, DAY_S + DAY.slot_s)


def waits(meter: Meter, num_tokens: int, now_s: float) -> float:
    with pytest.raises(QuotaExceededError) as caught:
        meter.admit(num_tokens, now_s)
    return caught.value.retry_after_s
