"""The dispatcher with addresses of many: teams, roles, selectors; and bulk sends that are cut anywhere."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from schemas.context import Context, Role, service_context
from schemas.envelope import Envelope
from schemas.team import Member
from tests.redis.dispatch.test_dispatcher import Bench
from tests.support.builders import agent
from tests.support.ledger import agent_id
from tests.support.waiting import until
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.scripts import Scripts
from workers.bus.bulk import Bulk
from workers.bus.receipts import read_deliveries
from workers.directory.teams import Teams
from workers.dispatch import expand
from workers.mailbox.audit import audit

ACME = service_context("acme", "test")
OWNER = Context(tenant="acme", principal="test", roles=frozenset({Role.OPERATOR}))


@pytest.fixture
async def bench(client: Client) -> AsyncIterator[Bench]:
    one = Bench(client)
    one.letta.roster = [
        agent(1, "", "team:news", "role:writer"),
        agent(2, "", "team:news", "role:editor"),
        agent(3, "", "team:news", "role:editor"),
        agent(4, "", "role:editor"),
        agent(5, "", "team:news", "role:editor", tenant="globex"),
    ]
    await one.register("acme", "globex")
    yield one
    for office in one.offices:
        await office.stop()


async def sent_to(bench: Bench, message_id: str) -> list[int]:
    found = read_deliveries(ACME, bench.client, message_id)
    return sorted([int(one.agent[-12:]) async for one in found])


async def refusal(bench: Bench, to: dict[str, Any], **more: Any) -> tuple[str, str]:
    await bench.put({"id": "bad", "to": to, **more})
    await until(bench.is_empty)
    found = await bench.client.hmget(keys.of(ACME).message("bad"), "cause", "detail")
    return found[0].decode(), found[1].decode()


async def test_a_team_by_tag_is_whoever_carries_it(bench: Bench) -> None:
    await bench.office().start()
    await bench.put({"id": "m", "to": {"team": "news"}})
    await bench.put({"id": "e", "to": {"team": "news", "role": "editor"}})
    await until(bench.is_empty)
    assert await sent_to(bench, "m") == [1, 2, 3]
    assert await sent_to(bench, "e") == [2, 3]
    assert await bench.client.hget(keys.of(ACME).delivery("m:1"), "teams") == b"news"


async def test_a_registered_team_lists_its_members_whoever_is_gone(bench: Bench, client: Client) -> None:
    """Who was deleted meanwhile is refused at its turn, one by one; nobody else is."""
    teams = Teams(client)
    await teams.create(
        OWNER,
        "duo",
        members=[Member(agent=agent_id(4), name="agent-4", role="lead"), Member(agent=agent_id(9), name="gone")],
        now_ms=1,
    )
    await bench.office().start()
    await bench.put({"id": "m", "to": {"team": "duo"}})
    await bench.put({"id": "lead", "to": {"team": "duo", "role": "lead"}})
    await until(bench.is_empty)
    assert await sent_to(bench, "m") == [4, 9]
    assert await sent_to(bench, "lead") == [4]


async def test_a_selector_finds_its_own_tenants_agents_only(bench: Bench) -> None:
    await bench.office().start()
    await bench.put({"id": "tags", "to": {"tags": ["role:editor", "team:news"]}})
    await bench.put({"id": "name", "to": {"name": "agent-[14]"}})
    await until(bench.is_empty)
    assert await sent_to(bench, "tags") == [2, 3]
    assert await sent_to(bench, "name") == [1, 4]


@pytest.mark.parametrize(
    ("to", "cause", "words"),
    [
        ({"team": "nobody"}, "unknown_team", "no such team"),
        ({"team": "news", "role": "boss"}, "no_recipients", "nobody in the team has this role"),
        ({"tags": ["role:boss"]}, "no_recipients", "no agent of the tenant fits"),
        ({"tags": ["tenant:globex"]}, "no_recipients", "no agent of the tenant fits"),
        ({"tags": ["role:editor"], "at_most": 2}, "too_many_recipients", "3 agents fit, at most 2 are meant"),
        ({"name": "*"}, "unscoped", "only an operator may"),
        ({"tags": ["tenant:acme"]}, "unscoped", "only an operator may"),
    ],
)
async def test_what_cannot_be_sent_to_anybody_says_why(
    bench: Bench, to: dict[str, Any], cause: str, words: str
) -> None:
    await bench.office().start()
    found = await refusal(bench, to)
    assert found[0] == cause
    assert words in found[1]
    assert len(await bench.letters()) == 1
    assert await audit(ACME, bench.client, bench.offices[0].resources.clock) == []


async def test_a_team_of_more_than_fifty_is_no_team(bench: Bench) -> None:
    bench.letta.roster = [agent(number, "", "team:mob") for number in range(1, 52)]
    await bench.office().start()
    cause, words = await refusal(bench, {"team": "mob"})
    assert cause == "too_many_recipients"
    assert "51 agents" in words


async def test_an_agents_reply_to_its_team_does_not_come_back_to_itself(bench: Bench) -> None:
    await bench.office().start()
    await bench.put({"id": "m", "to": {"team": "news"}, "sender": f"agent:{agent_id(2)}"})
    await until(bench.is_empty)
    assert await sent_to(bench, "m") == [1, 3]


async def test_an_operators_publish_may_go_to_everybody(bench: Bench, client: Client) -> None:
    envelope = json.dumps({"id": "all", "to": {"name": "*"}, "content": "x"})
    digest = Envelope.model_validate_json(envelope).digest()
    await Scripts(client).publish(
        ACME, message_id="all", digest=digest, envelope=envelope, size=len(envelope), by_operator=True
    )
    await bench.office().start()
    await until(bench.is_empty)
    assert await sent_to(bench, "all") == [1, 2, 3, 4]


async def test_what_is_behind_a_bulk_send_stays_behind(bench: Bench) -> None:
    bench.letta.roster = [agent(number, "", "role:many") for number in range(1, 200)]
    await bench.put({"id": "before", "to": {"agent": "agent-7"}})
    await bench.put({"id": "bulk", "to": {"tags": ["role:many"], "at_most": 500}})
    await bench.put({"id": "after", "to": {"agent": "agent-7"}})
    await bench.office().start()
    await until(bench.is_empty)
    found = await bench.client.zrange(keys.of(ACME).mailbox(agent_id(7)), 0, -1)
    assert [member.decode().partition(":")[0] for member in found] == ["before", "bulk", "after"]


async def test_whoever_comes_after_a_crash_goes_on_with_the_same_recipients(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents made meanwhile are not taken in; nobody gets a second copy."""
    bench.letta.roster = [agent(number, "", "role:many") for number in range(1, 41)]
    monkeypatch.setattr(expand, "STEP", 7)
    office = bench.office()
    steps: list[int] = []
    real = office.resources.scripts.expand

    async def dies_at_the_third(*args: Any, **more: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return await real(*args, **more)

    monkeypatch.setattr(office.resources.scripts, "expand", dies_at_the_third)
    await bench.put({"id": "bulk", "to": {"tags": ["role:many"]}})
    await office.ownership.refresh()
    stream = await client.xrange(keys.of(ACME).tasks)
    await office.dispatcher._keep_to_what_is_owned()
    with pytest.raises(KeyboardInterrupt):
        await office.dispatcher._streams["acme"]._take_in(stream)
    assert await client.hget(keys.of(ACME).message("bulk"), "expanded") == b"14"
    await office.ownership.finish()
    bench.letta.roster.append(agent(99, "", "role:many"))

    await bench.office().start()
    await until(bench.is_empty)
    assert await sent_to(bench, "bulk") == list(range(1, 41))
    assert await audit(ACME, client, bench.offices[0].resources.clock) == []
    bulk = Bulk(ACME, bench.offices[1].resources)
    assert [(one.message_id, one.recipients, one.open) for one in await bulk.list()] == [("bulk", 40, 40)]


async def test_many_broadcasts_at_once_keep_their_order(bench: Bench) -> None:
    """More deliveries than one step makes: the next step is behind the first."""
    bench.letta.roster = [agent(number, "", "team:crowd") for number in range(1, 41)]
    for number in range(20):
        await bench.put({"id": f"m{number}", "to": {"team": "crowd"}})
        await bench.put({"id": f"s{number}", "to": {"agent": "agent-3"}})
    await bench.office().start()
    await until(bench.is_empty)
    found = await bench.client.zrange(keys.of(ACME).mailbox(agent_id(3)), 0, -1)
    expected = [name for number in range(20) for name in (f"m{number}", f"s{number}")]
    assert [member.decode().partition(":")[0] for member in found] == expected


async def test_a_listed_team_does_not_ask_for_the_list_anew(bench: Bench, client: Client) -> None:
    await Teams(client).create(OWNER, "duo", members=[Member(agent=agent_id(4), name="agent-4")], now_ms=1)
    office = bench.office()
    await office.start()
    await bench.put({"id": "first", "to": {"agent": "agent-4"}})
    await until(bench.is_empty)
    before = bench.letta.listings
    office.resources.clock.monotonic = _later(office.resources.clock.monotonic, 40)  # type: ignore[method-assign]
    await bench.put({"id": "m", "to": {"team": "duo"}})
    await until(bench.is_empty)
    assert bench.letta.listings == before
    await bench.put({"id": "t", "to": {"team": "news"}})
    await until(bench.is_empty)
    assert bench.letta.listings == before + 1


def _later(clock: Callable[[], float], seconds: float) -> Callable[[], float]:
    return lambda: clock() + seconds
