"""The register of tenants: made once, changed by operators, and told to whoever reads streams."""

import asyncio

import pytest

from schemas.context import Operator
from schemas.tenant import Limits
from workers.broker import keys
from workers.broker.client import Client
from workers.directory.tenants import Tenants
from workers.errors import NotFoundError, RefusedError

OPERATOR = Operator("ops")
ODD = ["", "A", "Acme", "a" * 41, "a_b", "a:b", "{acme}", "a*", "a\n", "a\x00", "-a", "a b", "../a", "\u0430cme", "a}"]


@pytest.fixture
def tenants(client: Client) -> Tenants:
    return Tenants(client)


async def test_a_tenant_is_registered_once(tenants: Tenants) -> None:
    made = await tenants.create(OPERATOR, "acme", Limits(per_minute=7), now_ms=5)

    assert made == await tenants.show(OPERATOR, "acme")
    assert (made.limits.per_minute, made.suspended, made.created_at_ms) == (7, False, 5)
    with pytest.raises(RefusedError, match="registered already"):
        await tenants.create(OPERATOR, "acme", Limits(), now_ms=6)
    assert (await tenants.show(OPERATOR, "acme")).limits.per_minute == 7


@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_name_is_refused_and_touches_nothing(tenants: Tenants, odd: str) -> None:
    with pytest.raises(RefusedError, match="expected lower-case letters"):
        await tenants.create(OPERATOR, odd, Limits(), now_ms=1)
    for ask in (
        tenants.show(OPERATOR, odd),
        tenants.change_limits(OPERATOR, odd, Limits()),
        tenants.suspend(OPERATOR, odd, suspended=True),
    ):
        with pytest.raises(NotFoundError):
            await ask

    assert await tenants.client.keys("*") == []


async def test_what_is_not_registered_cannot_be_changed(tenants: Tenants) -> None:
    with pytest.raises(NotFoundError):
        await tenants.suspend(OPERATOR, "acme", suspended=True)
    with pytest.raises(NotFoundError):
        await tenants.change_limits(OPERATOR, "acme", Limits())

    assert await tenants.all_ids(OPERATOR) == []
    assert not await tenants.client.exists("postroom:{acme}:tenant")


async def test_the_list_is_sorted(tenants: Tenants) -> None:
    for name in ("globex", "acme", "initech"):
        await tenants.create(OPERATOR, name, Limits(), now_ms=1)

    assert await tenants.all_ids(OPERATOR) == ["acme", "globex", "initech"]


async def test_every_change_is_told_to_dispatchers_and_sweepers(tenants: Tenants) -> None:
    await tenants.create(OPERATOR, "acme", Limits(), now_ms=1)
    await tenants.suspend(OPERATOR, "acme", suspended=True)
    await tenants.change_limits(OPERATOR, "acme", Limits(per_minute=2))

    told = await tenants.client.xrange(keys.control())
    assert [fields for _, fields in told] == [{b"tenant": b"acme"}] * 3
    assert await tenants.client.zscore(keys.agenda(), "acme") == 0


async def test_a_changed_limit_lifts_the_hold_that_the_old_one_made(tenants: Tenants) -> None:
    await tenants.create(OPERATOR, "acme", Limits(per_minute=1), now_ms=1)
    holds = "postroom:{acme}:holds"
    await tenants.client.hset(holds, mapping={"*": "99999999999999|rate_tenant", "agent-x": "1|busy"})
    await tenants.change_limits(OPERATOR, "acme", Limits(per_minute=100))

    assert await tenants.client.hkeys(holds) == [b"agent-x"]


async def test_a_tenant_is_suspended_and_resumed_with_its_limits_kept(tenants: Tenants) -> None:
    await tenants.create(OPERATOR, "acme", Limits(in_flight=3), now_ms=1)

    assert (await tenants.suspend(OPERATOR, "acme", suspended=True)).suspended
    resumed = await tenants.suspend(OPERATOR, "acme", suspended=False)
    assert (resumed.suspended, resumed.limits.in_flight) == (False, 3)


async def test_two_operators_at_once_make_one_tenant(tenants: Tenants) -> None:
    made = await asyncio.gather(
        *(tenants.create(OPERATOR, "acme", Limits(per_minute=n), now_ms=n) for n in range(1, 9)),
        return_exceptions=True,
    )

    assert len([one for one in made if isinstance(one, RefusedError)]) == 7


@pytest.mark.parametrize("command", ["execute_command", "sadd", "xadd", "zadd"])
async def test_a_registration_that_was_cut_is_made_whole_by_the_next(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Redis goes away in the middle: half a tenant must not be a tenant for ever."""

    def away(*_: object, **__: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(tenants.client, command, away)
        with pytest.raises(ConnectionError):
            await tenants.create(OPERATOR, "acme", Limits(), now_ms=1)
    if command in {"execute_command", "sadd"}:
        await tenants.create(OPERATOR, "acme", Limits(per_minute=9), now_ms=2)
        assert (await tenants.show(OPERATOR, "acme")).limits.per_minute == 9

    assert await tenants.all_ids(OPERATOR) == ["acme"]
    assert await tenants.client.hexists("postroom:{acme}:tenant", "max_bytes")
