"""The register of teams: changed by owners and operators only, by two of them at once, and never past its bounds."""

import asyncio

import pytest

from schemas.context import Context, Operator, Role, service_context
from schemas.team import MAX_MEMBERS, Member, Team
from tests.support.builders import agent
from tests.support.fake_letta_port import FakeLetta
from tests.support.key_check import audit
from tests.support.ledger import Ledger, agent_id
from tests.support.time import FakeClock
from workers.broker import keys
from workers.directory.agents import Directory
from workers.directory.teams import Teams, member
from workers.errors import NotFoundError, RefusedError

ACME = Operator("ops").for_tenant("acme")


def one(number: int, role: str | None = None) -> Member:
    return Member(agent=agent_id(number), name=f"agent-{number}", role=role)


@pytest.fixture
def teams(ledger: Ledger) -> Teams:
    return Teams(ledger.client)


async def test_a_team_is_registered_once_and_found_again(teams: Teams, ledger: Ledger) -> None:
    made = await teams.create(ACME, "editorial", members=[one(2, "editor"), one(1)], now_ms=5)
    tagged = await teams.create(ACME, "Press", tags=["team:press", "env:prod", "env:prod"], now_ms=6)

    assert made == Team(name="editorial", members=(one(2, "editor"), one(1)), created_at_ms=5)
    assert tagged.tags == ("team:press", "env:prod")
    assert await teams.show(ACME, "editorial") == made
    assert await teams.all(service_context("acme", "dispatcher")) == {"Press": tagged, "editorial": made}
    with pytest.raises(RefusedError, match="registered already"):
        await teams.create(ACME, "editorial", now_ms=7)
    assert await teams.show(ACME, "editorial") == made
    await audit(ledger.client, ledger.context, ledger.time.now_us)


async def test_members_come_and_go(teams: Teams) -> None:
    await teams.create(ACME, "editorial", members=[one(1)], now_ms=5)
    await teams.add(ACME, "editorial", one(2, "editor"))
    changed = await teams.add(ACME, "editorial", one(1, "lead"))

    assert changed.members == (one(1, "lead"), one(2, "editor"))
    removed = await teams.remove(ACME, "editorial", agent_id(1))
    assert removed == await teams.show(ACME, "editorial")
    assert (removed.members, removed.created_at_ms) == ((one(2, "editor"),), 5)
    with pytest.raises(NotFoundError, match="is not in team"):
        await teams.remove(ACME, "editorial", agent_id(1))


async def test_changes_at_once_all_land(teams: Teams) -> None:
    await teams.create(ACME, "editorial", members=[one(20)], now_ms=5)
    await asyncio.gather(
        teams.remove(ACME, "editorial", agent_id(20)),
        *(teams.add(ACME, "editorial", one(number)) for number in range(1, 13)),
    )

    found = await teams.show(ACME, "editorial")
    assert found.listed == {agent_id(number) for number in range(1, 13)}
    assert len(found.members) == 12


async def test_of_two_that_create_it_at_once_one_does(teams: Teams) -> None:
    made = await asyncio.gather(
        *(teams.create(ACME, "editorial", members=[one(number)], now_ms=5) for number in range(1, 9)),
        return_exceptions=True,
    )

    (winner,) = [team for team in made if isinstance(team, Team)]
    assert await teams.show(ACME, "editorial") == winner
    assert sum(isinstance(team, RefusedError) for team in made) == 7


async def test_nobody_gets_a_team_past_its_bound(teams: Teams) -> None:
    full = [one(number) for number in range(1, MAX_MEMBERS + 1)]
    with pytest.raises(RefusedError, match=f"at most {MAX_MEMBERS} members"):
        await teams.create(ACME, "editorial", members=[*full, one(99)], now_ms=5)
    await teams.create(ACME, "editorial", members=full[1:], now_ms=5)

    added = await asyncio.gather(
        teams.add(ACME, "editorial", one(98)), teams.add(ACME, "editorial", one(99)), return_exceptions=True
    )
    assert sum(isinstance(result, RefusedError) for result in added) == 1
    assert len((await teams.show(ACME, "editorial")).members) == MAX_MEMBERS
    # Who is in a full team may still get another role.
    assert one(2, "lead") in (await teams.add(ACME, "editorial", one(2, "lead"))).members


@pytest.mark.parametrize(
    "given",
    [
        {"name": "a team"},
        {"name": ""},
        {"name": "a,b"},
        {"name": "x" * 65},
        {"name": "t\n"},
        {"name": "t", "members": [one(1), one(1, "lead")]},
        {"name": "t", "members": [one(1)], "tags": ["x"]},
        {"name": "t", "tags": [""]},
        {"name": "t", "tags": ["a\nb"]},
        {"name": "t", "tags": [f"tag-{number}" for number in range(21)]},
    ],
)
async def test_an_odd_team_is_refused_and_nothing_is_stored(teams: Teams, given: dict[str, object]) -> None:
    with pytest.raises(RefusedError):
        await teams.create(ACME, now_ms=5, **given)  # type: ignore[arg-type]

    assert not await teams.client.exists(keys.of(ACME).teams)


@pytest.mark.parametrize("roles", [frozenset(), frozenset({Role.PRODUCER}), frozenset({Role.SERVICE})])
async def test_only_owners_and_operators_change_teams(teams: Teams, roles: frozenset[Role]) -> None:
    made = await teams.create(ACME, "editorial", members=[one(1)], now_ms=5)
    stranger = Context(tenant="acme", principal="somebody", roles=roles)
    for change in (
        teams.create(stranger, "other", now_ms=5),
        teams.add(stranger, "editorial", one(2)),
        teams.remove(stranger, "editorial", agent_id(1)),
        teams.delete(stranger, "editorial"),
    ):
        with pytest.raises(RefusedError, match="owner or an operator"):
            await change

    assert await teams.all(stranger) == {"editorial": made}


async def test_the_owner_may(teams: Teams) -> None:
    owner = Context(tenant="acme", principal="owner", roles=frozenset({Role.OWNER}))
    await teams.create(owner, "editorial", now_ms=5)

    assert (await teams.add(owner, "editorial", one(1))).members == (one(1),)


async def test_a_team_that_finds_its_members_is_changed_by_tags_alone(teams: Teams) -> None:
    await teams.create(ACME, "press", tags=["team:press"], now_ms=5)
    for change in (teams.add(ACME, "press", one(1)), teams.remove(ACME, "press", agent_id(1))):
        with pytest.raises(RefusedError, match="by tags"):
            await change


async def test_what_is_not_registered_is_named_and_the_nearest_too(teams: Teams) -> None:
    await teams.create(ACME, "editorial", now_ms=5)
    for ask in (
        teams.show(ACME, "editorals"),
        teams.add(ACME, "editorals", one(1)),
        teams.remove(ACME, "editorals", agent_id(1)),
        teams.delete(ACME, "editorals"),
    ):
        with pytest.raises(NotFoundError, match="did you mean 'editorial'"):
            await ask
    with pytest.raises(NotFoundError):
        await teams.show(ACME, "{globex}:teams")


async def test_a_deleted_team_is_gone_and_its_name_is_free(teams: Teams) -> None:
    await teams.create(ACME, "editorial", members=[one(1)], now_ms=5)
    await teams.delete(ACME, "editorial")

    assert await teams.all(ACME) == {}
    assert not await teams.client.exists(keys.of(ACME).teams)
    assert (await teams.create(ACME, "editorial", now_ms=6)).members == ()


@pytest.mark.parametrize("record", ["{", "[]", '{"name":"other"}', '{"name":"bad name"}'])
async def test_a_record_that_cannot_be_read_stops_nobody_and_can_be_deleted(teams: Teams, record: str) -> None:
    made = await teams.create(ACME, "editorial", now_ms=5)
    await teams.client.hset(keys.of(ACME).teams, "broken", record)

    assert await teams.all(ACME) == {"editorial": made}
    for ask in (teams.show(ACME, "broken"), teams.add(ACME, "broken", one(1))):
        with pytest.raises(RefusedError, match="cannot be read"):
            await ask
    await teams.delete(ACME, "broken")
    assert await teams.client.hkeys(keys.of(ACME).teams) == [b"editorial"]


async def test_another_tenant_sees_and_changes_nothing_of_it(teams: Teams) -> None:
    globex = Operator("ops").for_tenant("globex")
    await teams.client.hset(keys.of(globex).tenant, "max_bytes", 1)
    made = await teams.create(ACME, "editorial", members=[one(1)], now_ms=5)

    assert await teams.all(globex) == {}
    with pytest.raises(NotFoundError):
        await teams.delete(globex, "editorial")
    assert await teams.all(ACME) == {"editorial": made}


async def test_a_tenant_that_is_gone_gets_no_team(teams: Teams) -> None:
    """Deleted while somebody changed it: no key comes back."""
    await teams.client.delete(keys.of(ACME).tenant)
    with pytest.raises(NotFoundError, match="no tenant"):
        await teams.create(ACME, "editorial", now_ms=5)

    assert not await teams.client.exists(keys.of(ACME).teams)


async def test_an_address_becomes_a_member_by_the_directory(teams: Teams) -> None:
    clock = FakeClock()
    letta = FakeLetta(roster=[agent(1, "anna"), agent(2, "twin"), agent(3, "twin"), agent(4, "spy", tenant="globex")])
    directory = Directory(teams.client, letta, clock)
    now = clock.monotonic()

    by_name = await member(ACME, directory, "anna", role="lead", seen_at=now)
    assert by_name == Member(agent=agent_id(1), name="anna", role="lead")
    assert (await member(ACME, directory, agent_id(3), seen_at=now)).name == "twin"
    with pytest.raises(NotFoundError, match="did you mean 'anna'"):
        await member(ACME, directory, "ana", seen_at=now)
    with pytest.raises(NotFoundError):
        await member(ACME, directory, agent_id(4), seen_at=now)
    with pytest.raises(RefusedError, match="2 agents have this name"):
        await member(ACME, directory, "twin", seen_at=now)
    with pytest.raises(RefusedError, match="role"):
        await member(ACME, directory, "anna", role="", seen_at=now)
