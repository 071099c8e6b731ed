"""What a Redis server does to scripts: it forgets them, and it runs full."""

from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ResponseError

from tests.conftest import REAL
from tests.redis.broker.shorthand import a_move, add_raw, give_back, move, take_one
from tests.support.ledger import Ledger, agent_id
from tests.support.redis_server import RedisServer
from tests.support.time import ScriptTime
from workers.broker.client import Client, close, connect

pytestmark = pytest.mark.skipif(not REAL, reason="no real Redis found")


@pytest.fixture(params=list(REAL))
async def client(request: pytest.FixtureRequest, redis_servers: dict[str, RedisServer]) -> AsyncIterator[Client]:
    """An empty real Redis with room enough."""
    real = connect(redis_servers[request.param].url)
    await real.flushall()
    await real.script_flush()
    yield real
    await real.config_set("maxmemory", 0)
    await close(real)


async def test_scripts_come_back_after_they_were_flushed(ledger: Ledger, client: Client) -> None:
    """Redis restarted, or somebody flushed: the next call brings each script along."""
    await ledger.send("m1")
    await client.script_flush()
    await ledger.send("m2")
    await client.script_flush()
    taken = await take_one(ledger)
    await client.script_flush()

    assert await ledger.settle(taken) == "settled"
    assert await ledger.take_ids() == ["m2:1"]


async def test_a_batch_keeps_its_order_when_scripts_were_flushed(ledger: Ledger, client: Client) -> None:
    entries = [await add_raw(ledger, {"message": "hello"}) for _ in range(3)]
    moves = [a_move(entry, f"m{number}", agent_id(1)) for number, entry in enumerate(entries)]
    await client.script_flush()

    answers = await ledger.scripts.dispatch_all(ledger.context, owner="dispatcher-1", moves=moves, seed="s")

    assert [one.status for one in answers] == ["moved"] * 3
    assert await client.zrange(ledger.keys.mailbox(agent_id(1)), 0, -1) == [b"m0:1", b"m1:1", b"m2:1"]


async def test_a_batch_is_one_step(ledger: Ledger, client: Client) -> None:
    """Another's call between two of its entries could renew a lost stream, or bring a lost script back, and let the
    second overtake the first."""
    await ledger.send("m9")
    entries = [await add_raw(ledger, {"message": "hello"}) for _ in range(3)]
    moves = [a_move(entry, f"m{number}", agent_id(1)) for number, entry in enumerate(entries)]
    await client.config_resetstat()

    await ledger.scripts.dispatch_all(ledger.context, owner="dispatcher-1", moves=moves, seed="s")

    stats = await client.info("commandstats")
    assert stats["cmdstat_exec"]["calls"] == 1


async def test_an_error_in_a_batch_is_raised(ledger: Ledger, client: Client) -> None:
    """Not counted as moved: whoever moves them reads the entries again."""
    entries = [await add_raw(ledger, {"message": "hello"}) for _ in range(2)]
    moves = [a_move(entry, f"m{number}", agent_id(1)) for number, entry in enumerate(entries)]
    await client.set(ledger.keys.message("m1"), "not a hash")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await ledger.scripts.dispatch_all(ledger.context, owner="dispatcher-1", moves=moves, seed="s")

    await client.delete(ledger.keys.message("m1"))
    answers = await ledger.scripts.dispatch_all(ledger.context, owner="dispatcher-1", moves=moves, seed="s")
    assert [one.status for one in answers] == ["gone", "moved"]


async def test_a_script_is_loaded_once(ledger: Ledger, client: Client) -> None:
    """By its digest from then on: the source does not travel with every call."""
    await ledger.publish("m0")
    await client.config_resetstat()

    for number in range(1, 6):
        await ledger.publish(f"m{number}")

    stats = await client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 5
    assert "cmdstat_eval" not in stats


async def test_a_full_redis_accepts_nothing_and_finishes_what_it_has(ledger: Ledger, client: Client) -> None:
    """HAZARDS.md S14: publish says so clearly; settle frees the agent and gives its reply all the same."""
    await ledger.send("m1")
    await ledger.send("m2", agent_id(2))
    one, two = (await ledger.take()).taken
    await ledger.publish("m3")
    before = await ledger.counters()
    await client.config_set("maxmemory", 1)

    assert await ledger.publish("m4") == "overloaded"
    with pytest.raises(ResponseError, match="command not allowed when used memory"):
        await move(ledger, a_move(await ledger.entry_of("m3"), "m3", agent_id(3)))

    assert await ledger.counters() == before
    assert not await client.exists(ledger.keys.message("m4"))
    assert await ledger.settle(one, reply="done") == "settled"
    assert await give_back(ledger, two) == "settled"
    assert await ledger.field("m1:1", "reply") == "done"
    await client.config_set("maxmemory", 0)


async def full_for(ledger: Ledger, seconds: float) -> None:
    """The clock of these tests is a key, which a full Redis does not move."""
    await ledger.client.config_set("maxmemory", 0)
    await ledger.time.advance(seconds=seconds)
    await ledger.client.config_set("maxmemory", 1)


async def test_a_full_redis_begins_nothing_and_lets_what_runs_go_on(ledger: Ledger, client: Client) -> None:
    """Leases are renewed, runs stored, cancels and sweeps done; no turn begins whose end might find no room."""
    for number in range(1, 5):
        await ledger.send(f"m{number}", agent_id(number))
    (running,) = (await ledger.take(1)).taken
    before = await ledger.counters()
    # Something that a take would do first, and that alone Redis would allow.
    await ledger.client.zadd(ledger.keys.later, {f"a:{agent_id(9)}": 1})
    await client.config_set("maxmemory", 1)

    with pytest.raises(ResponseError, match="command not allowed when used memory"):
        await ledger.take()
    assert await ledger.counters() == before
    await full_for(ledger, 10)
    pairs = [(running.agent, running.token)]
    assert await ledger.scripts.renew(ledger.context, lease_ms=15_000, pairs=pairs) == frozenset()
    assert await ledger.scripts.record_run(
        ledger.context, delivery_id=running.id, agent=running.agent, token=running.token, run_id="run-1"
    )
    assert await ledger.scripts.hold_stream(ledger.context, owner="dispatcher-1", lease_ms=15_000)
    assert (await ledger.scripts.cancel(ledger.context, message_id="m4")).results == (("m4:1", "cancelled"),)
    await full_for(ledger, 10)
    await ledger.scripts.sweep(ledger.context, seed="s", overflow_ms=1_000)
    assert await ledger.state(running.id) == "running"
    assert await ledger.settle(running) == "settled"

    await client.config_set("maxmemory", 0)
    assert await ledger.take_ids() == ["m2:1", "m3:1"]


async def test_the_scripts_clock_is_the_servers(client: Client) -> None:
    """Without the tests' clock: Redis' own TIME."""
    time = ScriptTime(client)
    await time.start()
    fresh = Ledger(client, time)
    fresh.scripts = type(fresh.scripts)(client)
    await fresh.register()

    seconds, micros = await client.time()
    now_ms = (await fresh.take()).now_ms

    assert 0 <= now_ms - (int(seconds) * 1000 + int(micros) // 1000) < 1_000
