"""Which agents a tenant has: what is remembered, when it is asked for again, and what nobody gets to see."""

import asyncio
import time
from collections.abc import AsyncIterator

import fakeredis
import pytest

from schemas.agent import Agent
from schemas.context import Context
from tests.support.builders import ACME, agent, of_tenant
from tests.support.fake_letta_port import FakeLetta
from tests.support.ledger import agent_id
from tests.support.time import FakeClock
from workers.broker import keys
from workers.directory.agents import (
    AWAY_SECONDS,
    FRESH_SECONDS,
    RELOAD_SECONDS,
    AmbiguousAgent,
    Directory,
    Roster,
    UnknownAgent,
)
from workers.errors import LettaUnavailableError

NEVER = float("-inf")


class Bench:
    def __init__(self) -> None:
        self.client = fakeredis.FakeAsyncRedis()
        self.clock = FakeClock()
        self.letta = FakeLetta(roster=[agent(1, "researcher"), agent(2, "writer")])
        self.directory = self.another()

    def another(self) -> Directory:
        """The directory of another process on the same Redis."""
        return Directory(self.client, self.letta, self.clock)

    @property
    def now(self) -> float:
        return self.clock.monotonic()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    one = Bench()
    for context in (ACME, of_tenant("globex")):
        await one.client.hset(keys.of(context).tenant, "max_bytes", 1)
    yield one
    await one.client.aclose()


async def test_an_agent_is_found_by_id_and_by_its_exact_name(bench: Bench) -> None:
    by_name = await bench.directory.find(ACME, "researcher", seen_at=bench.now)
    by_id = await bench.directory.find(ACME, agent_id(1), seen_at=bench.now)

    assert by_name == by_id == agent(1, "researcher")
    assert await bench.directory.find(ACME, "Researcher", seen_at=NEVER) == UnknownAgent()
    assert await bench.directory.find(ACME, "research", seen_at=NEVER) == UnknownAgent()


async def test_the_list_is_read_once_however_often_it_is_asked(bench: Bench) -> None:
    await asyncio.gather(*(bench.directory.find(ACME, "writer", seen_at=bench.now) for _ in range(20)))

    assert bench.letta.listings == 1


async def test_another_process_reads_what_this_one_stored(bench: Bench) -> None:
    await bench.directory.find(ACME, "writer", seen_at=bench.now)

    assert await bench.another().find(ACME, "writer", seen_at=bench.now) == agent(2, "writer")
    assert bench.letta.listings == 1


async def test_names_are_not_unique_and_a_message_to_two_agents_is_nobodys(bench: Bench) -> None:
    bench.letta.roster = [agent(1, "twin"), agent(2, "twin")]

    assert await bench.directory.find(ACME, "twin", seen_at=bench.now) == AmbiguousAgent((agent_id(1), agent_id(2)))
    assert await bench.directory.find(ACME, agent_id(2), seen_at=bench.now) == agent(2, "twin")


async def test_an_id_counts_before_a_name_that_looks_like_one(bench: Bench) -> None:
    """Nobody takes over another agent's mail by naming an agent after its id."""
    bench.letta.roster = [agent(1, "victim"), agent(2, agent_id(1))]

    assert await bench.directory.find(ACME, agent_id(1), seen_at=bench.now) == agent(1, "victim")


@pytest.mark.parametrize("tags", [(), ("tenant:globex",), ("tenant:acm",), ("tenant:acme2",), ("Tenant:acme",)])
async def test_an_agent_without_the_tenants_tag_never_appears(bench: Bench, tags: tuple[str, ...]) -> None:
    """Whatever the source lists: a server whose filter is wider than asked must not matter."""
    stray = Agent(id=agent_id(9), name="stray", tags=tags)
    bench.letta.roster.append(stray)

    assert await bench.directory.find(ACME, "stray", seen_at=bench.now) == UnknownAgent()
    assert await bench.directory.confirm(ACME, stray.id, seen_at=bench.now) is None
    assert stray not in await bench.directory.all(ACME)
    assert stray.id not in await bench.directory.known(ACME)
    assert stray.id.encode() not in await bench.client.hkeys(keys.of(ACME).agents)


async def test_two_tenants_share_nothing(bench: Bench) -> None:
    theirs = agent(7, "theirs", tenant="globex")
    bench.letta.roster.append(theirs)

    assert await bench.directory.find(of_tenant("globex"), "theirs", seen_at=bench.now) == theirs
    assert await bench.directory.find(ACME, "theirs", seen_at=bench.now) == UnknownAgent()


async def test_an_agent_with_two_tenants_tags_is_both_tenants(bench: Bench) -> None:
    shared = Agent(id=agent_id(5), name="shared", tags=("tenant:acme", "tenant:globex"))
    bench.letta.roster.append(shared)

    for context in (ACME, of_tenant("globex")):
        assert await bench.directory.confirm(context, shared.id, seen_at=bench.now) == shared


async def test_an_agent_made_a_moment_before_its_first_message_is_found(bench: Bench) -> None:
    await bench.directory.find(ACME, "writer", seen_at=bench.now)
    bench.clock.advance(0.01)
    bench.letta.roster.append(agent(3, "editor"))

    assert await bench.directory.find(ACME, "editor", seen_at=bench.now) == agent(3, "editor")


async def test_unknown_is_believed_of_a_list_that_is_younger_than_the_question(bench: Bench) -> None:
    asked = bench.now
    bench.clock.advance(0.01)
    await bench.directory.find(ACME, "writer", seen_at=bench.now)

    assert await bench.directory.find(ACME, "nobody", seen_at=asked) == UnknownAgent()
    assert bench.letta.listings == 1


async def test_unknown_names_do_not_become_a_load_on_letta(bench: Bench) -> None:
    """A flood of them, each seen anew: the list is read once a second, and each is answered."""
    began = bench.now
    for number in range(50):
        found = await bench.directory.find(ACME, f"nobody-{number}", seen_at=bench.now)
        assert found == UnknownAgent()
        bench.clock.advance(0.1)

    assert bench.letta.listings <= 2 + (bench.now - began) / RELOAD_SECONDS


async def test_a_list_grows_old(bench: Bench) -> None:
    await bench.directory.find(ACME, "writer", seen_at=bench.now)
    bench.letta.roster = [agent(1, "researcher")]
    bench.clock.advance(FRESH_SECONDS + 1)

    assert await bench.directory.find(ACME, "writer", seen_at=NEVER) == UnknownAgent()


async def test_a_source_that_is_away_does_not_matter_for_an_agent_known_before(bench: Bench) -> None:
    await bench.directory.find(ACME, "writer", seen_at=bench.now)
    bench.letta.away = True
    bench.clock.advance(FRESH_SECONDS + 1)

    assert await bench.directory.find(ACME, "writer", seen_at=bench.now) == agent(2, "writer")
    assert await bench.directory.confirm(ACME, agent_id(2), seen_at=bench.now) == agent(2, "writer")
    assert await bench.another().confirm(ACME, agent_id(2), seen_at=bench.now) == agent(2, "writer")


async def test_a_source_that_is_away_makes_nobody_unknown(bench: Bench) -> None:
    bench.letta.away = True
    for _ in range(2):
        with pytest.raises(LettaUnavailableError):
            await bench.directory.find(ACME, "writer", seen_at=bench.now)
    bench.letta.away = False

    assert await bench.directory.find(ACME, "writer", seen_at=bench.now) == agent(2, "writer")


async def test_a_list_that_breaks_off_is_not_believed(bench: Bench) -> None:
    class Broken(FakeLetta):
        async def agents(self, context: Context) -> AsyncIterator[Agent]:  # noqa: ARG002
            yield agent(1, "researcher")
            raise LettaUnavailableError("the second page")

    directory = Directory(bench.client, Broken(), bench.clock)
    with pytest.raises(LettaUnavailableError):
        await directory.find(ACME, "researcher", seen_at=bench.now)

    assert not await bench.client.exists(keys.of(ACME).agents)


async def test_an_agent_that_turned_out_to_be_gone_is_asked_for_anew(bench: Bench) -> None:
    await bench.directory.find(ACME, "writer", seen_at=bench.now)
    bench.letta.roster = [agent(1, "researcher")]
    bench.clock.advance(1)
    bench.directory.forget(ACME)

    assert await bench.directory.confirm(ACME, agent_id(2), seen_at=NEVER) is None
    assert bench.letta.listings == 2
    assert await bench.directory.confirm(ACME, agent_id(1), seen_at=NEVER)
    assert bench.letta.listings == 2


async def test_a_forgotten_list_still_serves_while_the_source_is_away(bench: Bench) -> None:
    await bench.directory.find(ACME, "writer", seen_at=bench.now)
    bench.directory.forget(ACME)
    bench.letta.away = True

    assert await bench.directory.confirm(ACME, agent_id(2), seen_at=bench.now) == agent(2, "writer")


async def test_a_tenant_without_agents_is_remembered_as_such(bench: Bench) -> None:
    bench.letta.roster = []
    asked = bench.now
    await bench.directory.find(ACME, "x", seen_at=asked)

    assert await bench.another().find(ACME, "x", seen_at=NEVER) == UnknownAgent()
    assert bench.letta.listings == 1
    assert await bench.directory.known(ACME) == {}


@pytest.mark.parametrize("record", [b"{", b"\xff", b"[]", b'{"id":"not-an-id","name":"x"}'])
async def test_a_record_that_cannot_be_read_is_read_from_the_source_again(bench: Bench, record: bytes) -> None:
    await bench.directory.find(ACME, "writer", seen_at=bench.now)
    await bench.client.hset(keys.of(ACME).agents, agent_id(1), record)

    assert await bench.another().find(ACME, "researcher", seen_at=bench.now) == agent(1, "researcher")
    assert bench.letta.listings == 2


async def test_a_stamp_that_cannot_be_read_is_no_stamp(bench: Bench) -> None:
    await bench.directory.find(ACME, "writer", seen_at=bench.now)
    await bench.client.hset(keys.of(ACME).agents, "*", "yesterday")

    assert await bench.another().find(ACME, "writer", seen_at=bench.now) == agent(2, "writer")


async def test_all_reads_anew_and_sorts_by_name(bench: Bench) -> None:
    await bench.directory.find(ACME, "writer", seen_at=bench.now)
    bench.letta.roster.append(agent(3, "editor"))
    bench.clock.advance(2)

    assert [one.name for one in await bench.directory.all(ACME)] == ["editor", "researcher", "writer"]
    assert set(await bench.directory.known(ACME)) == {agent_id(1), agent_id(2), agent_id(3)}


async def test_a_list_young_enough_is_not_read_again_and_an_old_one_is(bench: Bench) -> None:
    first = await bench.directory.recent(ACME, 5)
    bench.clock.advance(4)
    assert await bench.directory.recent(ACME, 5) is first
    bench.letta.roster.append(agent(3, "editor"))
    bench.clock.advance(2)

    assert agent_id(3) in (await bench.directory.recent(ACME, 5)).by_id
    assert bench.letta.listings == 2


async def test_an_old_list_serves_while_the_source_is_away_and_nobody_waits_for_it_each_time(bench: Bench) -> None:
    first = await bench.directory.recent(ACME, 5)
    bench.letta.away = True
    bench.clock.advance(10)
    for _ in range(20):
        assert await bench.directory.recent(ACME, 5) is first
    assert bench.letta.listings == 2

    bench.letta.away = False
    bench.clock.advance(AWAY_SECONDS)
    assert await bench.directory.recent(ACME, 5) is not first


async def test_without_a_list_a_source_that_is_away_is_said_to_be(bench: Bench) -> None:
    bench.letta.away = True
    with pytest.raises(LettaUnavailableError):
        await bench.directory.recent(ACME, 5)


async def test_those_who_wait_for_one_failed_reading_share_its_end(bench: Bench) -> None:
    class Slow(FakeLetta):
        async def agents(self, context: Context) -> AsyncIterator[Agent]:
            for _ in range(100):
                # Everybody else is waiting by then.
                await asyncio.sleep(0)
            bench.clock.advance(10)
            async for one in super().agents(context):
                yield one

    slow = Slow(away=True)
    directory = Directory(bench.client, slow, bench.clock)
    ends = await asyncio.gather(*(directory.recent(ACME, 5) for _ in range(20)), return_exceptions=True)

    assert all(isinstance(end, LettaUnavailableError) for end in ends)
    assert slow.listings == 1


async def test_what_another_process_has_read_meanwhile_spares_the_source(bench: Bench) -> None:
    other = bench.another()
    await other.recent(ACME, 5)
    await bench.directory.recent(ACME, 5)
    bench.letta.roster.append(agent(3, "editor"))
    bench.clock.advance(10)
    await other.recent(ACME, 5)

    assert agent_id(3) in (await bench.directory.recent(ACME, 5)).by_id
    assert bench.letta.listings == 2


async def test_a_stored_list_is_as_old_as_its_reading(bench: Bench) -> None:
    await bench.directory.recent(ACME, 5)
    stored = int(await bench.client.hget(keys.of(ACME).agents, "*"))
    await bench.client.hset(keys.of(ACME).agents, "*", stored - 6_000)

    await bench.another().recent(ACME, 5)
    assert bench.letta.listings == 2


async def test_a_stamp_of_the_future_is_believed_once(bench: Bench) -> None:
    """Redis' clock was set back: the stored list must not count as new until the clock is there again."""
    other = bench.another()
    await bench.directory.recent(ACME, 5)
    stored = int(await bench.client.hget(keys.of(ACME).agents, "*"))
    await bench.client.hset(keys.of(ACME).agents, "*", stored + 3_600_000)
    await other.recent(ACME, 5)
    for _ in range(3):
        bench.clock.advance(6)
        await other.recent(ACME, 5)

    assert bench.letta.listings == 4


async def test_a_list_that_was_under_way_brings_back_no_key_of_a_deleted_tenant(bench: Bench) -> None:
    await bench.directory.recent(ACME, 5)
    await bench.client.delete(keys.of(ACME).tenant, keys.of(ACME).agents)
    bench.clock.advance(10)

    assert agent_id(1) in (await bench.directory.recent(ACME, 5)).by_id
    assert await bench.client.keys("*acme*") == []


def test_a_list_of_thousands_of_one_name_is_no_work() -> None:
    """Twice as many take twice as long, not four times: generous, for a machine that is busy."""

    def seconds(number: int) -> float:
        agents = [agent(one, "twin") for one in range(number)]
        began = time.process_time()
        assert len(Roster.of(agents, 0).by_name["twin"]) == number
        return time.process_time() - began

    assert seconds(50_000) < 1


async def test_an_agent_that_a_page_repeats_is_not_ambiguous(bench: Bench) -> None:
    """The list changes while its pages are read."""
    bench.letta.roster = [agent(1, "researcher"), agent(1, "researcher")]

    assert await bench.directory.find(ACME, "researcher", seen_at=bench.now) == agent(1, "researcher")
