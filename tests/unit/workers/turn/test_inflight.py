"""The adaptive limit against simulated servers: k turns at once, the rest queues inside, as Letta does.

Virtual time and seeded dice: the same every run.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from tests.support.builders import of_tenant
from workers.broker.rules import Pool
from workers.turn.inflight import STARTS_AT, AdaptiveLimit, Token
from workers.turn.slots import ServerSlots, Slots, usable

MEAN_SECONDS = 0.4
SERVICES: dict[str, Callable[[Random], float]] = {
    "all alike": lambda _: MEAN_SECONDS,
    "half to one and a half": lambda dice: dice.uniform(0.2, 0.6),
    "a few very long": lambda dice: dice.lognormvariate(math.log(MEAN_SECONDS) - 0.5, 1.0),
}


@dataclass
class VirtualClock:
    seconds: float = 0.0

    def now_ms(self) -> int:
        return int(self.seconds * 1_000)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Server:
    """Works on `capacity` turns at once and queues the rest without refusing."""

    clock: VirtualClock
    limit: AdaptiveLimit
    service: Callable[[Random], float]
    dice: Random = field(default_factory=lambda: Random(7))
    queue: deque[Token] = field(default_factory=deque)
    busy: list[tuple[float, int, Token]] = field(default_factory=list)
    count: int = 0
    slots: Slots | None = None
    """Where one tenant asks for its places; without, it takes all."""

    def has_room(self) -> bool:
        """Whether one more may begin; its place is taken with the answer."""
        if self.slots is None:
            return self.limit.room > 0
        granted = self.slots.grant(of_tenant("acme"))
        self.slots.release(of_tenant("acme"), max(0, granted - 1))
        return granted > 0

    def run(self, seconds: float, capacity: int, *, demand: int = 10_000) -> tuple[float, float]:
        """Turns a second and their mean latency, with never more than `demand` wanted at once."""
        since = self.clock.seconds
        latencies: list[float] = []
        while self.clock.seconds < since + seconds:
            while self.has_room() and self.limit.in_flight < demand:
                self.queue.append(self.limit.started())
            while self.queue and len(self.busy) < capacity:
                self.count += 1
                end = self.clock.seconds + self.service(self.dice)
                heapq.heappush(self.busy, (end, self.count, self.queue.popleft()))
            self.clock.seconds, _, token = heapq.heappop(self.busy)
            self.limit.ended(token, counted=True)
            if self.slots is not None:
                self.slots.release(of_tenant("acme"))
            latencies.append(self.clock.seconds - token.started_at)
        return len(latencies) / seconds, sum(latencies) / len(latencies)


def a_server(service: str, *, highest: int = 256) -> Server:
    clock = VirtualClock()
    return Server(clock, AdaptiveLimit(clock, highest=highest), SERVICES[service])


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("capacity", [8, 40])
def test_finds_what_the_server_can_do(capacity: int, service: str) -> None:
    server = a_server(service)
    server.run(60, capacity)
    rate, latency = server.run(300, capacity)
    assert rate >= 0.9 * capacity / MEAN_SECONDS
    assert latency <= 2 * MEAN_SECONDS


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(("before", "after"), [(8, 40), (40, 8)])
def test_follows_a_server_that_changes(before: int, after: int, service: str) -> None:
    server = a_server(service)
    server.run(120, before)
    server.run(60, after)
    rate, latency = server.run(300, after)
    assert rate >= 0.9 * after / MEAN_SECONDS
    assert latency <= 2 * MEAN_SECONDS


def test_longer_turns_are_no_reason_for_fewer() -> None:
    server = a_server("half to one and a half")
    server.run(120, 40)
    server.service = lambda dice: 5 * SERVICES["half to one and a half"](dice)
    server.run(120, 40)
    rate, _ = server.run(600, 40)
    assert rate >= 0.9 * 40 / (5 * MEAN_SECONDS)


def test_learns_nothing_while_something_else_holds_the_turns_back() -> None:
    server = a_server("half to one and a half")
    server.run(600, 40, demand=5)
    assert server.limit.current == pytest.approx(STARTS_AT, abs=2)


def test_learns_beside_places_that_are_kept_free_for_others() -> None:
    """One tenant alone never fills its server's places: a few are kept for others. It must not rest there for ever."""
    clock = VirtualClock()
    limit = AdaptiveLimit(clock, highest=256, usable=usable)
    slots = Slots(Pool.STANDARD, 256, ServerSlots(limit))
    server = Server(clock, limit, SERVICES["half to one and a half"], slots=slots)
    server.run(120, 40)
    rate, latency = server.run(300, 40)
    assert rate >= 0.9 * 40 / MEAN_SECONDS
    assert latency <= 2 * MEAN_SECONDS


def test_learns_from_turns_that_begin_and_end_together() -> None:
    """A batch of equal turns: when the second ends, the place of the first is already free."""
    clock = VirtualClock()
    limit = AdaptiveLimit(clock, highest=256)
    for _ in range(500):
        batch = [limit.started() for _ in range(limit.room)]
        clock.seconds += MEAN_SECONDS
        for token in batch:
            limit.ended(token, counted=True)
    assert limit.current > 100


@pytest.mark.parametrize(("highest", "capacity"), [(1, 40), (3, 40), (20, 40)])
def test_never_leaves_its_bounds(highest: int, capacity: int) -> None:
    server = a_server("a few very long", highest=highest)
    for _ in range(50):
        server.run(10, capacity)
        assert 1 <= server.limit.current <= highest
        assert server.limit.in_flight <= highest


def test_a_server_of_one_keeps_the_smallest_limit_there_is() -> None:
    server = a_server("half to one and a half")
    server.run(300, 1)
    assert server.limit.current <= 2


def test_turns_the_server_did_not_work_on_teach_nothing() -> None:
    clock = VirtualClock()
    limit = AdaptiveLimit(clock, highest=256)
    before = limit.current
    for _ in range(10_000):
        tokens = [limit.started() for _ in range(limit.room)]
        clock.seconds += 0.001
        for token in tokens:
            limit.ended(token, counted=False)
    assert limit.current == before
    assert limit.in_flight == 0


def test_counts_places() -> None:
    clock = VirtualClock()
    limit = AdaptiveLimit(clock, highest=256)
    tokens = [limit.started() for _ in range(limit.current)]
    assert (limit.room, limit.in_flight) == (0, limit.current)
    limit.ended(tokens[0], counted=True)
    assert limit.room == 1


def test_refuses_bounds_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="lowest"):
        AdaptiveLimit(VirtualClock(), highest=2, lowest=3)


def test_turns_that_take_far_too_long_hold_no_place() -> None:
    """Agents that never answer: the others go on as if they were not there."""
    clock = VirtualClock()
    limit = AdaptiveLimit(clock, highest=100)
    stuck = [limit.started() for _ in range(limit.current - 1)]
    for _ in range(8):
        clock.seconds += 1
        limit.ended(limit.started(), counted=True)
    assert limit.stuck == len(stuck)
    assert limit.room == limit.current
    for token in stuck:
        limit.ended(token, counted=False)
    assert (limit.stuck, limit.in_flight) == (0, 0)


def test_a_turn_that_is_joined_is_as_old_as_its_call() -> None:
    clock = VirtualClock()
    limit = AdaptiveLimit(clock, highest=100)
    limit.ended(limit.started(), counted=True)
    limit.started(age_seconds=60)
    assert (limit.stuck, limit.in_flight) == (1, 1)


def test_long_turns_are_no_stuck_turns_where_turns_are_long() -> None:
    clock = VirtualClock()
    limit = AdaptiveLimit(clock, highest=100)
    flying = deque(limit.started() for _ in range(limit.current))
    for number in range(200):
        clock.seconds += 5.0
        limit.ended(flying.popleft(), counted=True)
        while limit.room:
            flying.append(limit.started())
        # The first ones are longer than anything that was known.
        assert limit.stuck == 0 or number < 50


def test_where_nothing_ends_more_are_tried_and_not_without_end() -> None:
    clock = VirtualClock()
    limit = AdaptiveLimit(clock, highest=100)
    first = limit.current
    seen = set()
    for _ in range(100):
        while limit.room:
            limit.started()
        seen.add(limit.in_flight)
        clock.seconds += 1
    assert limit.in_flight == 5 * first
    assert limit.room == 0
    assert sorted(seen)[:3] == [first, 2 * first, 4 * first]


def test_there_is_never_more_than_the_highest_in_flight() -> None:
    clock = VirtualClock()
    limit = AdaptiveLimit(clock, highest=10)
    for _ in range(100):
        while limit.room:
            limit.started()
        clock.seconds += 1
    assert limit.in_flight == 10
