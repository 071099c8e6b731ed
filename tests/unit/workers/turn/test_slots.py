"""Room for turns: never more than there is, and never all of it for one tenant."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.outcome import Trouble
from tests.support.builders import of_tenant
from tests.support.time import FakeClock
from workers.broker.rules import Pool
from workers.turn.breaker import PROBE_SECONDS, Breaker
from workers.turn.inflight import AdaptiveLimit
from workers.turn.slots import ServerSlots, Slots, usable

TENANTS = ("acme", "globex", "initech")


class FixedLimit(AdaptiveLimit):
    """A limit that is set, not learned."""

    def __init__(self, fixed: int) -> None:
        super().__init__(FakeClock(), highest=10_000)
        self.fixed = fixed

    @property
    def current(self) -> int:
        return self.fixed


def one_pool(size: int, limit: int = 1_000, pool: Pool = Pool.EXPRESS) -> Slots:
    return Slots(pool, size, ServerSlots(FixedLimit(limit)))


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(1, 40),
    limit=st.integers(1, 60),
    moves=st.lists(st.tuples(st.sampled_from(TENANTS), st.sampled_from(["grant", "release"]), st.integers(0, 4))),
)
def test_neither_the_pool_nor_the_server_is_ever_given_more_than_it_has(
    size: int, limit: int, moves: list[tuple[str, str, int]]
) -> None:
    slots = one_pool(size, limit)
    held = dict.fromkeys(TENANTS, 0)
    for tenant, move, number in moves:
        slots.rivals = number
        if move == "grant":
            free = slots.free
            granted = slots.grant(of_tenant(tenant))
            assert 0 <= granted <= free
            held[tenant] += granted
        elif held[tenant]:
            count = min(held[tenant], max(1, number))
            slots.release(of_tenant(tenant), count)
            held[tenant] -= count
        assert slots.in_use == slots._server.granted == sum(held.values())
        assert slots.in_use <= min(size, limit)
    for tenant, count in held.items():
        slots.release(of_tenant(tenant), count)

    assert (slots.in_use, slots._server.granted, slots._held) == (0, 0, {})


@settings(max_examples=150, deadline=None)
@given(size=st.integers(2, 200), limit=st.integers(2, 200), rivals=st.integers(0, 5), takes=st.integers(1, 8))
def test_a_tenant_that_holds_slots_leaves_room_for_one_that_holds_none(
    size: int, limit: int, rivals: int, takes: int
) -> None:
    slots = one_pool(size, limit)
    slots.rivals = rivals
    for _ in range(takes):
        slots.grant(of_tenant("acme"))

    assert slots.grant(of_tenant("globex")) >= 1


@settings(max_examples=150, deadline=None)
@given(
    limit=st.integers(3, 100),
    asks=st.lists(st.sampled_from([Pool.STANDARD, Pool.BULK]), min_size=1, max_size=10),
    then=st.sampled_from([Pool.STANDARD, Pool.BULK]),
)
def test_a_tenant_leaves_room_whichever_pools_it_comes_through(limit: int, asks: list[Pool], then: Pool) -> None:
    """The pools of a process share one server: two of them must not be two ways to all of it."""
    server = ServerSlots(FixedLimit(limit))
    pools = {pool: Slots(pool, 200, server) for pool in Pool}
    for pool in asks:
        pools[pool].grant(of_tenant("acme"))

    assert pools[then].grant(of_tenant("globex")) >= 1


def test_a_pool_of_one_gives_it_to_whoever_comes_first() -> None:
    slots = one_pool(1)

    assert slots.grant(of_tenant("acme")) == 1
    assert slots.grant(of_tenant("globex")) == 0


def test_rivals_share_what_is_free() -> None:
    slots = one_pool(40)
    slots.rivals = 3

    assert slots.grant(of_tenant("acme")) == 10


def test_alone_a_tenant_gets_all_but_the_reserve() -> None:
    assert one_pool(40).grant(of_tenant("acme")) == 38
    assert one_pool(8).grant(of_tenant("acme")) == 7


@pytest.mark.parametrize("limit", [*range(1, 30), 100, 256])
def test_what_one_tenant_fills_by_one_pool_is_what_the_limit_counts_as_full(limit: int) -> None:
    """Else the limit would wait for turns that nobody may begin, and never learn."""
    slots = one_pool(1_000, limit, Pool.STANDARD)
    while slots.grant(of_tenant("acme")):
        pass

    assert slots.in_use == usable(limit)


@pytest.mark.parametrize("pool", [Pool.STANDARD, Pool.BULK])
def test_a_share_of_the_server_is_for_express_alone(pool: Pool) -> None:
    server = ServerSlots(FixedLimit(16))
    slots, express = Slots(pool, 100, server), Slots(Pool.EXPRESS, 100, server)
    for tenant in (*TENANTS, *TENANTS):
        slots.grant(of_tenant(tenant))

    assert slots.free == 0
    assert express.free == 2


def test_a_limit_that_falls_below_what_runs_gives_nothing_until_enough_has_ended() -> None:
    limit = FixedLimit(8)
    slots = Slots(Pool.EXPRESS, 8, ServerSlots(limit))
    granted = slots.grant(of_tenant("acme"))
    limit.fixed = 2

    assert slots.free == 0
    assert slots.grant(of_tenant("globex")) == 0
    slots.release(of_tenant("acme"), granted)
    assert slots.grant(of_tenant("globex")) == 1


async def test_who_waits_for_a_slot_is_woken_by_the_next_that_comes_free() -> None:
    slots = one_pool(1)
    slots.grant(of_tenant("acme"))
    waiters = [asyncio.create_task(slots.changed(30)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiters)
    slots.release(of_tenant("acme"))

    await asyncio.wait_for(asyncio.gather(*waiters), 5)


@pytest.mark.parametrize("within", [0, -1, 0.001])
async def test_who_waits_does_not_wait_longer_than_it_said(within: float) -> None:
    await asyncio.wait_for(one_pool(1).changed(within), 5)


def test_a_server_that_is_left_alone_has_room_for_the_one_turn_that_is_let_through() -> None:
    """For whichever tenant, also where its turns hang; and for one only."""
    clock = FakeClock()
    breaker = Breaker(clock)
    slots = Slots(Pool.STANDARD, 8, ServerSlots(FixedLimit(8), breaker))
    assert slots.grant(of_tenant("acme")) > 0
    for _ in range(3):
        breaker.failed(Trouble.AWAY, "a", clock.monotonic())
    assert (slots.free, slots.grant(of_tenant("acme"))) == (0, 0)

    clock.advance(PROBE_SECONDS)
    breaker.asked(answered=True)

    assert (slots.free, slots.grant(of_tenant("acme"))) == (1, 1)
    assert (slots.free, slots.grant(of_tenant("globex"))) == (0, 0)
    slots.hand_back(of_tenant("acme"), 1)
    assert slots.grant(of_tenant("globex")) == 1
    breaker.worked(clock.monotonic())
    slots.release(of_tenant("acme"), slots.in_use - 1)
    assert slots.free > 1
