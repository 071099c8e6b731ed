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

from workers.turn.inflight import STARTS_AT, AdaptiveLimit, Token

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

    def run(self, seconds: float, capacity: int, *, demand: int = 10_000) -> tuple[float, float]:
        """Turns a second and their mean latency, with never more than `demand` wanted at once."""
        since = self.clock.seconds
        latencies: list[float] = []
        while self.clock.seconds < since + seconds:
            while self.limit.room and self.limit.in_flight < demand:
                self.queue.append(self.limit.started())
            while self.queue and len(self.busy) < capacity:
                self.count += 1
                end = self.clock.seconds + self.service(self.dice)
                heapq.heappush(self.busy, (end, self.count, self.queue.popleft()))
            self.clock.seconds, _, token = heapq.heappop(self.busy)
            self.limit.ended(token, counted=True)
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
