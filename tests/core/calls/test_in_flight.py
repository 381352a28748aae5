"""When a node limits the requests in flight: only if a queue makes them wait, and no longer than that."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.calls.in_flight import AHEAD_S, ALLOWED_S, LATELY, WINDOW_S, InFlightLimit

TICK_S = 0.05
PATIENCE_S = 5.0


@dataclass
class Second:
    """The experience of the clients in one second."""

    in_time: int = 0
    too_late: int = 0
    users_refused: int = 0
    visitors_refused: int = 0
    longest_s: float = 0.0
    was_limited: bool = False


@dataclass
class Pool:
    """A resource with some places, each of which is taken for a while, behind a queue without an end. Half of the requests have a session.

    Args:
        arrivals: returns how many requests come in a second, at some time.
        takes_s: returns how long a request takes its place, at some time.
        places: how many requests are served at a time.
    """

    arrivals: Callable[[float], float]
    takes_s: Callable[[float], float] = lambda _: 0.1
    places: int = 10
    limit: InFlightLimit = field(default_factory=InFlightLimit)

    def run(self, seconds: float, seed: int = 1) -> list[Second]:
        dice, numbers, found = random.Random(seed), count(), [Second() for _ in range(math.ceil(seconds) + 1)]
        events: list[tuple[float, int, str, float]] = [(0.0, next(numbers), "arrival", 0.0), (TICK_S, next(numbers), "tick", 0.0)]
        waiting: list[tuple[int, float]] = []
        served = 0

        def serve(now_s: float) -> Iterator[None]:
            number, begun_s = waiting.pop(0)
            heapq.heappush(events, (now_s + self.takes_s(now_s), number, "answer", begun_s))
            yield

        while events[0][0] < seconds:
            now_s, number, kind, begun_s = heapq.heappop(events)
            told = found[int(now_s)]
            if kind == "tick":
                self.limit.tick(now_s)
                told.was_limited |= self.limit.limit < math.inf
                heapq.heappush(events, (now_s + TICK_S, next(numbers), "tick", 0.0))
            elif kind == "arrival":
                heapq.heappush(events, (now_s + dice.expovariate(self.arrivals(now_s)), next(numbers), "arrival", 0.0))
                has_session = dice.random() < 0.5
                if self.limit.refuses(has_session=has_session):
                    told.users_refused += has_session
                    told.visitors_refused += not has_session
                else:
                    self.limit.begin(number, now_s)
                    waiting.append((number, now_s))
            else:
                served -= 1
                self.limit.answered(number, now_s)
                told.in_time += now_s - begun_s <= PATIENCE_S
                told.too_late += now_s - begun_s > PATIENCE_S
                told.longest_s = max(told.longest_s, now_s - begun_s)
            while waiting and served < self.places:
                served += 1
                next(serve(now_s))
        return found[: int(seconds)]


def test_five_times_the_capacity_is_answered_at_capacity_and_soon_users_first() -> None:
    seconds = Pool(lambda _: 500.0).run(40)
    steady = seconds[20:]
    assert sum(second.in_time for second in steady) > 0.97 * 100 * len(steady)
    assert max(second.longest_s for second in steady) < 2 * ALLOWED_S
    assert sum(second.users_refused for second in steady) < 0.75 * sum(second.visitors_refused for second in steady)


def test_without_a_limit_the_same_load_is_answered_when_its_clients_have_gone() -> None:
    class Unlimited(InFlightLimit):
        def refuses(self, *, has_session: bool) -> bool:
            return False

    seconds = Pool(lambda _: 500.0, limit=Unlimited()).run(40)
    assert sum(second.in_time for second in seconds[20:]) == 0


def test_once_the_load_is_gone_nothing_is_refused_within_two_seconds() -> None:
    seconds = Pool(lambda now_s: 500.0 if now_s < 20 else 60.0).run(40)
    assert [second.users_refused + second.visitors_refused for second in seconds[22:]] == [0] * 18
    assert not any(second.was_limited for second in seconds[22:])
    assert max(second.longest_s for second in seconds[22:]) < 0.5


def test_a_limit_follows_a_resource_that_becomes_slower_and_faster_again() -> None:
    seconds = Pool(lambda _: 500.0, takes_s=lambda now_s: 0.2 if 20 < now_s < 40 else 0.1).run(60)
    slow, fast = seconds[30:39], seconds[50:]
    assert sum(second.in_time for second in slow) > 0.95 * 50 * len(slow)
    assert sum(second.in_time for second in fast) > 0.95 * 100 * len(fast)
    assert max(second.longest_s for second in (*slow, *fast)) < 2 * ALLOWED_S


@given(st.floats(1.0, 90.0), st.floats(0.0, 1.0))
def test_a_node_that_keeps_up_refuses_nothing(arrivals: float, swing: float) -> None:
    seconds = Pool(lambda now_s: arrivals * (1 - swing * (int(now_s) % 2)) or 1.0).run(20)
    assert not any(second.was_limited for second in seconds)


@given(st.floats(0.0, 60.0), st.integers(1, 1000))
def test_however_long_the_work_takes_nothing_is_refused_if_it_always_took_as_long(takes_s: float, a_second: int) -> None:
    limit = InFlightLimit()
    numbers, pending = count(), list[tuple[float, int]]()
    for step in range(int((takes_s + 10) / WINDOW_S)):
        now_s = step * WINDOW_S
        while pending and pending[0][0] <= now_s:
            due_s, number = pending.pop(0)
            limit.answered(number, due_s)
        limit.tick(now_s)
        for _ in range(math.ceil(a_second * WINDOW_S / 10)):
            assert not limit.refuses(has_session=False)
            number = next(numbers)
            limit.begin(number, now_s)
            pending.append((now_s + takes_s, number))


def test_a_burst_is_answered_without_a_refusal() -> None:
    """Two seconds of work come at once, and nothing after them."""
    seconds = Pool(lambda now_s: 2000.0 if now_s < 0.1 else 1.0).run(20)
    assert not any(second.users_refused for second in seconds)


def answer(limit: InFlightLimit, first: int, begun_s: float, now_s: float, many: int) -> None:
    for number in range(first, first + many):
        limit.begin(number, begun_s)
        limit.answered(number, now_s)


def waiting_for_events(limit: InFlightLimit) -> float:
    """Requests that wait for an event begin to be most of what a node answers; return the time at which they are limited."""
    limit.tick(0.0)
    answer(limit, 0, 0.0, 0.01, 20)
    limit.tick(WINDOW_S)
    for number in range(1000):
        limit.begin(("event", number), WINDOW_S)
    now_s = WINDOW_S
    while limit.limit == math.inf:
        now_s += WINDOW_S
        answer(limit, 100, now_s - 20.0, now_s, 20)
        limit.tick(now_s)
        assert now_s < 10
    return now_s


def test_a_limit_that_does_not_shorten_the_time_ends_and_does_not_come_back() -> None:
    limit = InFlightLimit()
    began_s = now_s = waiting_for_events(limit)
    while limit.limit < math.inf:
        limit.refuses(has_session=False)
        now_s += WINDOW_S
        answer(limit, 100, now_s - 20.0, now_s, 20)
        limit.tick(now_s)
        assert now_s - began_s < 30 + LATELY * WINDOW_S
    for _ in range(100):
        now_s += WINDOW_S
        answer(limit, 100, now_s - 20.0, now_s, 20)
        limit.tick(now_s)
        assert limit.limit == math.inf


def test_requests_that_wait_for_an_event_take_no_room_from_others_for_long() -> None:
    limit = InFlightLimit()
    limit.tick(0.0)
    answer(limit, 0, 0.0, 0.01, 20)
    limit.tick(WINDOW_S)
    for number in range(200):
        limit.begin(("event", number), WINDOW_S)
    now_s = WINDOW_S
    while limit.limit == math.inf:
        now_s += WINDOW_S
        answer(limit, 100, now_s - AHEAD_S, now_s, 50)
        limit.tick(now_s)
    assert limit.refuses(has_session=True)
    until_s = now_s + 20
    while limit.refuses(has_session=True):
        now_s += WINDOW_S
        answer(limit, 100, now_s - 0.1, now_s, 50)
        limit.tick(now_s)
        assert now_s < until_s


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.booleans()), min_size=1))
def test_the_time_that_a_client_takes_for_its_body_does_not_count(parts: list[tuple[float, bool]]) -> None:
    limit = InFlightLimit()
    now_s = worked_s = 0.0
    limit.begin("request", now_s)
    for lasts_s, is_of_client in parts:
        took_s = limit.pause("request", now_s) if is_of_client else None
        now_s += lasts_s
        if took_s is None:
            worked_s += lasts_s
        else:
            limit.begin("request", now_s, took_s)
    assert math.isclose(limit.pause("request", now_s), worked_s, abs_tol=1e-6)
