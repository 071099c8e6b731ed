"""A Letta server that goes away and comes back: it is left alone meanwhile, nothing is spent, and nothing is lost."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from console.checks import Check, Level, process_checks
from console.sandbox.behaviour import Behaviour
from console.sandbox.nouns import Agent
from console.session import Session
from schemas.delivery import Cause, State
from schemas.receipt import Receipt
from tests.support.redis_server import RedisServer
from tests.support.town import OPERATOR, Town, all_final, town
from tests.support.waiting import until
from workers.broker import keys
from workers.bus.client import TenantClient
from workers.clock import SystemClock
from workers.mailbox.audit import audit
from workers.resources import build
from workers.turn.breaker import PROBE_SECONDS

AGENTS = 6
BACK_WITHIN = 30
"""What a recovery may take (FAULTS.md F13). The next question, the next turn and the longest hold take 5 to 10 s."""


@pytest.fixture
async def acme_town(server: RedisServer, tmp_path: Path) -> AsyncIterator[Town]:
    async with town(server, tmp_path, turn_deadline_seconds=3, max_attempts=3) as opened:
        yield opened


@pytest.fixture
async def acme(acme_town: Town) -> AsyncIterator[TenantClient]:
    async with acme_town.of() as opened:
        yield opened


@pytest.fixture
async def agents(acme_town: Town, acme: TenantClient) -> list[Agent]:
    """Known to the services, which have used the server before."""
    found = [acme_town.add_agent(f"agent-{number}") for number in range(AGENTS)]
    ids = [(await acme.send(agent.name, "[[say before]]")).message_id for agent in found]
    await all_final(acme, ids)
    return found


class Switchboard(asyncio.Protocol):
    """Something on the server's port that is not the server: it hangs up, or never answers."""

    def __init__(self, calls: list[tuple[float, asyncio.Transport]], *, hangs_up: bool) -> None:
        self._calls = calls
        self._hangs_up = hangs_up

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._calls.append((time.monotonic(), transport))
        if self._hangs_up:
            transport.abort()


@asynccontextmanager
async def gone(one: Town) -> AsyncIterator[None]:
    """Nothing listens for a while. All that the server knew is there when it comes back."""
    await one.sandbox.stop()
    try:
        yield
    finally:
        await one.sandbox.start()


@asynccontextmanager
async def replaced(one: Town, *, hangs_up: bool) -> AsyncIterator[list[tuple[float, asyncio.Transport]]]:
    """Something else listens on the port of a server that is gone. Yields who called, and when."""
    port = int(one.sandbox.base_url.rpartition(":")[2])
    calls: list[tuple[float, asyncio.Transport]] = []
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Switchboard(calls, hangs_up=hangs_up), "127.0.0.1", port)
    try:
        yield calls
    finally:
        listening.close()
        for _, transport in calls:
            transport.abort()
        await asyncio.sleep(0)


async def send_all(acme: TenantClient, agents: list[Agent], text: str, rounds: int) -> list[str]:
    return [
        (await acme.send(agent.name, f"{number} {text}")).message_id for number in range(rounds) for agent in agents
    ]


async def circuit(one: Town) -> str | None:
    """How the pool says that the server is used."""
    found = [json.loads(await one.client.get(key) or b"{}") async for key in one.client.scan_iter(f"{keys.process()}*")]
    return next((sign["letta"] for sign in found if sign.get("letta")), None)


async def is_open(one: Town) -> bool:
    return await circuit(one) in {"open", "trying"}


async def caused(acme: TenantClient, message_id: str) -> Cause | None:
    receipt = await acme.receipt(message_id)
    return receipt.deliveries[0].cause if receipt.deliveries else None


async def assert_whole(one: Town, receipts: list[Receipt], agents: list[Agent], turns: int) -> None:
    """All delivered at the cost of one attempt, one turn each, in the order of each agent; nothing left behind."""
    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    for agent in agents:
        numbers = [line["content_head"].split()[0] for line in one.turns(agent)][1:]
        assert numbers == [str(number) for number in range(turns)]
    found = await audit(OPERATOR.for_tenant("acme"), one.client, SystemClock())
    assert [finding.sentence for finding in found] == []


async def test_a_server_that_refuses_connections_is_asked_gently_and_used_at_once_when_it_is_back(
    acme_town: Town, acme: TenantClient, agents: list[Agent]
) -> None:
    async with gone(acme_town):
        ids = await send_all(acme, agents, "[[say ok]]", rounds=2)
        await until(lambda: is_open(acme_town), within=20)
        fleeting = (await acme.send(agents[0].name, "too late", expires_in=1)).message_id
        late = (await acme.send(agents[1].name, "2 [[say ok]]")).message_id
        opened_at = time.monotonic()
        async with replaced(acme_town, hangs_up=True) as calls:
            await asyncio.sleep(2 * PROBE_SECONDS + 1)
        for message_id in (*ids, late):
            assert await caused(acme, message_id) in {Cause.SERVER_AWAY, Cause.BEHIND}
        expired = await acme.receipt(fleeting)
        # A question whose connection is hung up on is asked once more at once, by the HTTP client.
        asked = [at for at, _ in calls if at > opened_at + 1]
        rounds = [at for before, at in pairwise([-9.0, *asked]) if at - before > 1]
    assert (expired.state, expired.deliveries[0].detail) == (State.EXPIRED, "the Letta server was away")
    assert 1 <= len(rounds) <= 3
    assert all(later - earlier > PROBE_SECONDS - 1 for earlier, later in pairwise(rounds))
    assert len(asked) <= 2 * len(rounds)

    receipts = await all_final(acme, ids, within=BACK_WITHIN)

    assert {receipt.deliveries[0].attempts for receipt in receipts} == {1}
    await all_final(acme, [late])
    await assert_whole(acme_town, receipts, [agents[0], *agents[2:]], turns=2)
    await until(lambda: closed(acme_town), within=5)


async def closed(one: Town) -> bool:
    return await circuit(one) == "closed"


async def test_a_server_that_fails_by_its_own_word_gets_one_turn_in_five_seconds(
    acme_town: Town, acme: TenantClient, agents: list[Agent]
) -> None:
    """500 for every agent. The failures that opened the breaker count, and no other (FAULTS.md F13)."""
    acme_town.sandbox.world.behaviour = Behaviour(fail_status=500)
    ids = await send_all(acme, agents, "[[say ok]]", rounds=2)
    await until(lambda: is_open(acme_town), within=10)
    await asyncio.sleep(0.5)
    opened_at = int(time.time() * 1000)
    await asyncio.sleep(2 * PROBE_SECONDS + 1)
    warned = [check.found for check in await doctor(acme_town) if check.level is Level.WARN]
    tried = [line["at"] for line in requests(acme_town) if line["at"] > opened_at]
    acme_town.sandbox.world.behaviour = None
    receipts = await all_final(acme, ids, within=BACK_WITHIN)

    assert 1 <= len(tried) <= 3
    assert all(later - earlier > 1000 * PROBE_SECONDS - 100 for earlier, later in pairwise(tried))
    assert ["leaves the Letta server alone" in found for found in warned] == [True]
    attempts = [receipt.deliveries[0].attempts for receipt in receipts]
    assert max(attempts) <= 3
    assert sum(attempts) <= len(ids) + 5
    await assert_whole(acme_town, receipts, agents, turns=2)


async def test_a_server_that_never_answers_is_left_alone_once_several_agents_met_it(
    acme_town: Town, acme: TenantClient, agents: list[Agent]
) -> None:
    async with gone(acme_town), replaced(acme_town, hangs_up=False):
        ids = await send_all(acme, agents, "[[say ok]]", rounds=2)
        await until(lambda: is_open(acme_town), within=20)
        await asyncio.sleep(PROBE_SECONDS + 1)
        assert await is_open(acme_town)
    receipts = await all_final(acme, ids, within=2 * BACK_WITHIN)

    await assert_whole(acme_town, receipts, agents, turns=2)


async def test_one_agent_that_fails_is_not_the_server(acme_town: Town, acme: TenantClient, agents: list[Agent]) -> None:
    """Its own messages end; the others go on as ever."""
    agents[0].behaviour = Behaviour(fail_status=500)
    dead = [(await acme.send(agents[0].name, f"{number} never")).message_id for number in range(3)]
    ids = await send_all(acme, agents[1:], "[[say ok]]", rounds=2)
    receipts = await all_final(acme, [*dead, *ids])

    assert [receipt.state for receipt in receipts[:3]] == [State.DEAD] * 3
    assert not await is_open(acme_town)
    await assert_whole(acme_town, receipts[3:], agents[1:], turns=2)


async def test_an_agent_whose_server_died_under_its_turn_waits_for_the_lock_and_is_called_again(
    server: RedisServer, tmp_path: Path
) -> None:
    """The run never ends and the lock stays for 300 s (LETTA.md section 3): nobody else waits for it, and what waits
    for it pays nothing.
    """
    async with town(server, tmp_path, turn_deadline_seconds=1, max_attempts=3) as one, one.of() as acme:
        orphan, other = one.add_agent("orphan", orphan_times=1), one.add_agent("other")
        again = await acme.send(orphan.name, "[[say again]]")
        never = await acme.send(orphan.name, "[[say behind]]")

        async def is_locked_out() -> bool:
            return await caused(acme, again.message_id) is Cause.BUSY

        await until(is_locked_out, within=30)
        assert (await acme.ask(other.name, "[[say meanwhile]]", within=10)).reply == "meanwhile"
        one.sandbox.world.clock.advance(300)
        receipts = await all_final(acme, [again.message_id, never.message_id], within=30)

        assert [receipt.reply for receipt in receipts] == ["again", "behind"]
        assert receipts[0].deliveries[0].attempts <= 3
        assert len(one.turns(orphan)) == 3


async def doctor(one: Town) -> list[Check]:
    """What `postroom doctor` says of the processes."""
    resources = build(one.settings, "cli")
    try:
        return [check async for check in process_checks(Session(one.settings, resources, OPERATOR))]
    finally:
        await resources.close()


def requests(one: Town) -> list[dict[str, Any]]:
    """The requests for turns that reached the server, as it logged them."""
    lines = [json.loads(line) for line in one.turn_log.read_text().splitlines()]
    return [line for line in lines if line["event"] == "request"]
