"""A message to a team whose members come and go: each member has an end of its own."""

from schemas.address import TeamAddress
from schemas.delivery import Cause, State
from schemas.receipt import Receipt
from schemas.team import Member
from tests.support.town import OPERATOR, Town
from workers.bus.client import TenantClient
from workers.directory.teams import Teams

TO = TeamAddress(team="editorial")


async def test_a_listed_member_that_is_deleted_is_refused_alone_after_one_call_at_most(acme_town: Town) -> None:
    """Whether the list of agents still has it or not; the others are delivered, and nothing is tried for ever."""
    agents = [acme_town.add_agent(f"member-{number}") for number in range(3)]
    listed = [Member(agent=one.id, name=one.name) for one in agents]
    await Teams(acme_town.client).create(OPERATOR.for_tenant("acme"), "editorial", members=listed, now_ms=1)
    gone = agents[1]
    async with acme_town.of() as acme:
        before = await _ask(acme, "[[say here]]")
        del acme_town.sandbox.world.agents[gone.id]
        after = [await _ask(acme, "[[say still here]]") for _ in range(2)]

    assert [one.state for one in before.deliveries] == [State.DELIVERED] * 3
    for receipt in after:
        ends = {one.agent: (one.state, one.cause) for one in receipt.deliveries}
        assert ends == {
            agents[0].id: (State.DELIVERED, Cause.REPLIED),
            gone.id: (State.REFUSED, Cause.UNKNOWN_AGENT),
            agents[2].id: (State.DELIVERED, Cause.REPLIED),
        }
        assert max(one.attempts for one in receipt.deliveries) <= 1
    assert len(acme_town.turns(gone)) == 1
    assert len(acme_town.turns(agents[0])) == 3


async def test_an_agent_counts_as_a_member_as_soon_as_its_tags_say_so(acme_town: Town) -> None:
    acme_town.add_agent("first", "acme", "team:editorial")
    async with acme_town.of() as acme:
        before = await _ask(acme, "[[say one]]")
        await Teams(acme_town.client).create(
            OPERATOR.for_tenant("acme"), "editorial", tags=["team:editorial", "role:writer"], now_ms=1
        )
        acme_town.add_agent("second", "acme", "team:editorial", "role:writer")
        after = await _ask(acme, "[[say two]]")

    assert [one.agent_name for one in before.deliveries] == ["first"]
    assert [one.agent_name for one in after.deliveries] == ["second"]


async def _ask(acme: TenantClient, content: str) -> Receipt:
    sent = await acme.send(TO, content)
    return await acme.wait(sent.message_id, within=10)
