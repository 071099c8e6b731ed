"""What expires before its turn is never called, and ends in time; a turn that began in time ends (FAULTS.md F36)."""

from pathlib import Path

from schemas.delivery import Cause, State
from tests.support.redis_server import RedisServer
from tests.support.town import Town, all_final, town
from workers.broker import keys

WITHIN_MS = 5_000
ACME = keys.TenantKeys("acme")


async def late_by_ms(here: Town, message_id: str) -> int:
    """How long after its expiry it was ended."""
    [expires_at] = await here.client.hmget(ACME.message(message_id), "expires_at")
    [ended_at] = await here.client.hmget(ACME.delivery(f"{message_id}:1"), "ended_at")
    return int(ended_at) - int(expires_at)


async def test_of_a_thousand_that_expire_in_a_mailbox_none_is_called(acme_town: Town) -> None:
    agent = acme_town.add_agent("slow", latency_seconds=6)
    async with acme_town.of() as acme:
        first = await acme.send("slow", "first")
        ids = [(await acme.send("slow", f"number {number}", expires_in=3)).message_id for number in range(1000)]
        receipts = await all_final(acme, ids, within=20)
        assert (await acme.wait(first.message_id, within=20)).state is State.DELIVERED

    assert {(one.state, one.cause) for one in receipts} == {(State.EXPIRED, Cause.TTL)}
    assert {one.deliveries[0].attempts for one in receipts} == {0}
    assert [turn["content_head"] for turn in acme_town.turns(agent)] == ["first"]
    late = [await late_by_ms(acme_town, one) for one in ids]
    assert 0 <= min(late) <= max(late) <= WITHIN_MS


async def test_what_expires_while_it_waits_for_its_next_attempt_gets_none(server: RedisServer, tmp_path: Path) -> None:
    async with town(server, tmp_path, backoff_base_seconds=8, backoff_cap_seconds=8) as here:
        agent = here.add_agent("weak", fail_status=500, fail_where="letta", fail_times=1)
        async with here.of() as acme:
            sent = await acme.send("weak", "[[say ok]]", expires_in=1)
            receipt = await acme.wait(sent.message_id, within=10)

        assert (receipt.state, receipt.cause) == (State.EXPIRED, Cause.TTL)
        assert receipt.deliveries[0].attempts == 1
        assert here.turns(agent) == []
        assert 0 <= await late_by_ms(here, sent.message_id) <= WITHIN_MS


async def test_a_turn_in_flight_at_its_expiry_finishes_and_is_marked_late(acme_town: Town) -> None:
    agent = acme_town.add_agent("slow", latency_seconds=1.2)
    async with acme_town.of() as acme:
        sent = await acme.send("slow", "[[say ok]]", expires_in=0.6)
        receipt = await acme.wait(sent.message_id, within=10)

    [delivery] = receipt.deliveries
    assert (delivery.state, delivery.late, delivery.attempts, receipt.reply) == (State.DELIVERED, True, 1, "ok")
    assert len(acme_town.turns(agent)) == 1
