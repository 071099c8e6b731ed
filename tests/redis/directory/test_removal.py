"""A tenant is deleted whole: nothing begins after the mark, nothing that comes late brings a key back."""

from typing import Any

import pytest

from schemas.context import Operator, service_context
from schemas.delivery import Cause, State, Taken
from schemas.tenant import Limits
from tests.support.builders import resources
from tests.support.ledger import OWNER, Ledger, agent_id
from tests.support.time import FakeClock
from workers.broker import agenda, keys
from workers.broker.client import Client
from workers.broker.results import Move, Settlement
from workers.broker.rules import Pool
from workers.broker.scripts import NAMES
from workers.directory.removal import QUIET_SECONDS, Phase, Removal, Remover
from workers.directory.tenants import Tenants
from workers.errors import NotFoundError, RefusedError

OPERATOR = Operator("ops")
OF_COMING_AND_GOING = {"register", "leave", "clear", "bury"}


def remover(ledger: Ledger, clock: FakeClock | None = None) -> Remover:
    return Remover(ledger.client, ledger.scripts, clock or FakeClock())


async def left_under_the_root(client: Client) -> list[bytes]:
    return sorted(await client.keys("postroom:{acme}:*"))


async def leave(ledger: Ledger) -> int:
    """Suspended, listed and marked; nothing deleted yet."""
    await ledger.client.hset(ledger.keys.tenant, "suspended", 1)
    mark = await remover(ledger).ask(ledger.context)
    assert (await ledger.scripts.leave(ledger.context, mark=mark)).status == "left"
    return mark


async def to_the_end(ledger: Ledger, mark: int) -> None:
    """Steps until it is gone, as one process does."""
    clock = FakeClock()
    one = remover(ledger, clock)
    for _ in range(20):
        if (await one.advance(ledger.context, mark)).phase is Phase.GONE:
            return
        clock.advance(1)
    pytest.fail("never gone")


async def a_busy_life(ledger: Ledger) -> None:
    """Something in every place: a turn that runs, one that waits, ends, letters, holds, an entry on the stream."""
    for number in range(1, 5):
        await ledger.send(f"m{number}", agent_id(number), expires_in_ms=60_000)
    first, second, third, _ = (await ledger.take()).taken
    await ledger.settle(second, State.DEAD, Cause.ATTEMPTS)
    await ledger.settle(third, State.WAITING, Cause.BUSY, hold="agent", hold_ms=5_000)
    await ledger.publish("m5")
    await ledger.client.xadd(ledger.keys.tasks, {"message": "by hand"})
    assert first.id == "m1:1"


def calls(entry: str) -> dict[str, dict[str, Any]]:
    """Every script as a process would call it that has not heard of the end."""
    move = Move(entry, "m5", "hello", "{}", 5, 2, None, None, ((agent_id(1), ("team",)),), 1, 10)
    settlement = Settlement("m1:1", agent_id(1), 1, State.DELIVERED, Cause.REPLIED, forward_id="r1")
    return {
        "publish": {"message_id": "m9", "digest": "d", "envelope": "e", "size": 1},
        "hold_stream": {"owner": OWNER, "lease_ms": 1_000},
        "release_stream": {"owner": OWNER},
        "dispatch": {"owner": OWNER, "move": move, "seed": "s"},
        "snapshot": {"owner": OWNER, "move": move},
        "expand": {"owner": OWNER, "entry_id": entry, "message_id": "m5", "limit": 5, "seed": "s"},
        "refuse": {"owner": OWNER, "entry_id": entry, "message_id": "m5", "cause": Cause.INVALID, "detail": "d"},
        "take": {"owner": "w", "pool": Pool.STANDARD, "limit": 5, "lease_ms": 1_000},
        "record_run": {"delivery_id": "m1:1", "agent": agent_id(1), "token": 1, "run_id": "run"},
        "renew": {"lease_ms": 1_000, "pairs": [(agent_id(1), 1)]},
        "settle": {"seed": "s", "settlements": [settlement]},
        "ring": {"pool": Pool.BULK, "seed": "s"},
        "cancel": {"message_id": "m4"},
        "lift": {},
        "sweep": {"seed": "s", "overflow_ms": 0},
        "pause": {"message_id": "m5"},
        "resume": {"message_id": "m5"},
        "gather": {"message_id": "m5", "forward_id": "r", "forward_digest": "d", "forward_envelope": "e"},
        "ack": {"reader": "crm", "message_ids": ["m2"]},
        "redrive": {"entry_id": "1-1", "ttl_ms": 5},
        "discard": {"entry_id": "1-1"},
        "note_away": {"for_ms": 1},
        "abandon": {"owner": "o", "cursor": 0, "seed": "s"},
        "recount": {"counter": "waiting", "drift": 1},
        "repair_agent": {"agent": agent_id(1)},
        "repair_delivery": {"delivery_id": "m1:1", "agent": agent_id(1)},
        "repair_message": {"message_id": "m1"},
        "park": {"agent": agent_id(1), "by": "cli:ops", "why": "by hand"},
        "unpark": {"agent": agent_id(1)},
        "write_team": {"name": "team", "before": b"", "after": b"{}"},
        "store_agents": {"age_ms": 1, "records": [(agent_id(1), "{}")]},
        "amend": {"fields": [("suspended", 0)]},
        "evict": {"limit": 5},
    }


def test_every_script_is_tried() -> None:
    assert set(calls("1-1")) == set(NAMES) - OF_COMING_AND_GOING


@pytest.mark.parametrize("name", sorted(calls("1-1")))
async def test_no_script_makes_a_key_of_a_tenant_that_is_not_there(client: Client, ledger: Ledger, name: str) -> None:
    await client.delete(ledger.keys.tenant, ledger.keys.dispatcher)
    await getattr(ledger.scripts, name)(ledger.context, **calls("1-1")[name])

    assert await left_under_the_root(client) == []


@pytest.mark.parametrize("name", sorted(calls("1-1")))
async def test_no_script_changes_a_tenant_that_has_left(client: Client, ledger: Ledger, name: str) -> None:
    """Whose keys are not deleted yet: nothing is taken, moved, settled or written any more."""
    await a_busy_life(ledger)
    entry = await ledger.entry_of("m5")
    letter = (await client.xrange(ledger.keys.dead))[0][0].decode()
    await client.hset(ledger.keys.tenant, "suspended", 1)
    await ledger.scripts.evict(ledger.context, limit=100)
    await leave(ledger)
    before = {key: await client.dump(key) for key in await left_under_the_root(client)}
    given = calls(entry)[name]
    if "entry_id" in given and name in {"redrive", "discard"}:
        given["entry_id"] = letter
    answer = await getattr(ledger.scripts, name)(ledger.context, **given)

    assert {key: await client.dump(key) for key in await left_under_the_root(client)} == before
    if name == "take":
        assert answer.taken == ()
    if name == "publish":
        assert answer.status == "unknown_tenant"


async def test_nothing_is_left_of_it_and_another_is_not_touched(client: Client, ledger: Ledger) -> None:
    await Tenants(client).create(OPERATOR, "acme-2", Limits(), now_ms=1)
    await a_busy_life(ledger)
    await agenda.note(ledger.context, client, 10**15)
    await client.hset(ledger.keys.tenant, "suspended", 1)
    await ledger.scripts.evict(ledger.context, limit=100)
    others = {key: await client.dump(key) for key in await client.keys("postroom:{acme-2}:*")}
    await to_the_end(ledger, await leave(ledger))

    assert await left_under_the_root(client) == []
    assert await client.smembers(keys.tenants()) == {b"acme-2"}
    assert not await client.exists(keys.leaving())
    assert await client.zscore(keys.agenda(), "acme") is None
    assert {key: await client.dump(key) for key in await client.keys("postroom:{acme-2}:*")} == others


async def test_what_lands_late_is_found(client: Client, ledger: Ledger) -> None:
    """By a hand, or a producer that writes to the stream itself: the look begins again."""
    mark, clock = await leave(ledger), FakeClock()
    one = remover(ledger, clock)
    await one.advance(ledger.context, mark)
    await client.xadd(ledger.keys.tasks, {"message": "late"})
    clock.advance(QUIET_SECONDS)

    assert (await one.advance(ledger.context, mark)).deleted == 1
    assert (await one.advance(ledger.context, mark)).phase is Phase.CLEARING
    clock.advance(QUIET_SECONDS)
    assert (await one.advance(ledger.context, mark)).phase is Phase.GONE
    assert await left_under_the_root(client) == []


async def test_the_mark_waits_for_turns_and_for_the_suspension(client: Client, ledger: Ledger) -> None:
    await ledger.send("m1")
    [taken] = (await ledger.take()).taken
    assert (await ledger.scripts.leave(ledger.context, mark=1)).status == "active"
    assert await ledger.scripts.evict(ledger.context, limit=1) == -1
    await client.hset(ledger.keys.tenant, "suspended", 1)
    assert (await ledger.scripts.leave(ledger.context, mark=1)).status == "busy"
    assert await ledger.settle(taken) == "settled"
    assert (await ledger.scripts.leave(ledger.context, mark=1)).status == "left"
    assert (await ledger.scripts.leave(ledger.context, mark=2)).mark == 1


async def test_turns_are_let_finish_and_then_taken_back(client: Client, ledger: Ledger) -> None:
    """Their fate stays open, and a worker that ends one after all is still believed."""
    await ledger.send("m1")
    [taken] = (await ledger.take()).taken
    clock = FakeClock()
    seen = [running async for running in remover(ledger, clock).quiesce(OPERATOR, "acme", wait_seconds=2)]

    assert set(seen) == {1}
    assert len(seen) > 5
    assert await ledger.field("m1:1", "fate") == "open"
    assert not (await ledger.take()).taken
    assert await ledger.scripts.renew(ledger.context, lease_ms=1, pairs=[(agent_id(1), taken.token)]) == {agent_id(1)}
    assert await ledger.settle(taken) == "settled"


async def test_one_that_was_resumed_before_the_mark_stays(client: Client, ledger: Ledger) -> None:
    mark = await remover(ledger).ask(ledger.context)

    assert (await remover(ledger).advance(ledger.context, mark)).phase is Phase.KEPT
    assert not await client.exists(keys.leaving())
    assert await ledger.publish("m1") == "accepted"


@pytest.mark.parametrize("step", ["_strike_out", "_clear", "_forget"])
async def test_any_process_goes_on_after_a_crash(
    client: Client, ledger: Ledger, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis goes away from the first process in one of its steps; a service of another brings it to its end."""
    await ledger.publish("m1")
    await client.hset(ledger.keys.tenant, "suspended", 1)
    first = remover(ledger)
    mark = await first.ask(ledger.context)

    async def away(*_: object, **__: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(first, step, away)
        patch.setattr(first, "_is_quiet", lambda *_: True)
        if step == "_forget":
            await first.advance(ledger.context, mark)
        with pytest.raises(ConnectionError):
            await first.advance(ledger.context, mark)
    clock = FakeClock()
    service = Removal(resources(client, scripts=ledger.scripts, clock=clock))
    for _ in range(10):
        await service.step()
        clock.advance(1)

    assert await left_under_the_root(client) == []
    assert not await client.exists(keys.leaving(), keys.tenants())


async def test_a_new_one_of_the_name_waits_and_is_safe_from_whoever_was_frozen(client: Client, ledger: Ledger) -> None:
    tenants = Tenants(client)
    mark = await leave(ledger)
    for ask in (
        tenants.create(OPERATOR, "acme", Limits(), now_ms=5),
        tenants.suspend(OPERATOR, "acme", suspended=False),
        tenants.change_limits(OPERATOR, "acme", Limits()),
    ):
        with pytest.raises((RefusedError, NotFoundError), match="is being deleted"):
            await ask
    await to_the_end(ledger, mark)
    made = await tenants.create(OPERATOR, "acme", Limits(), now_ms=6)
    late = remover(ledger)
    assert await ledger.scripts.clear(ledger.context, mark=mark, names=["tenant", "events"]) == -1
    assert not await ledger.scripts.bury(ledger.context, mark=mark)
    await late._strike_out(ledger.context, mark)
    await late._forget(ledger.context, mark)

    assert await tenants.show(OPERATOR, "acme") == made
    assert await tenants.all_ids(OPERATOR) == ["acme"]


async def test_another_of_the_name_has_other_turns(client: Client, ledger: Ledger) -> None:
    """A server remembers otids for hours: the new tenant's `m1` must not join the old one's."""
    found: list[Taken] = []
    for _ in range(2):
        await client.delete(ledger.keys.tenant)
        await client.srem(keys.tenants(), "acme")
        await Tenants(client).create(OPERATOR, "acme", Limits(), now_ms=1)
        await ledger.scripts.hold_stream(ledger.context, owner=OWNER, lease_ms=600_000)
        await ledger.send("m1")
        found += (await ledger.take()).taken
        await Tenants(client).suspend(OPERATOR, "acme", suspended=True)
        await ledger.scripts.evict(ledger.context, limit=10)
        await to_the_end(ledger, await leave(ledger))

    first, second = (taken.incarnation for taken in found)
    assert first
    assert first != second


async def test_a_wake_up_of_a_tenant_that_is_gone_is_harmless(client: Client, ledger: Ledger) -> None:
    await to_the_end(ledger, await leave(ledger))
    await agenda.note(service_context("acme", "late"), client, 5)

    assert not (await ledger.take()).taken
    assert await left_under_the_root(client) == []
