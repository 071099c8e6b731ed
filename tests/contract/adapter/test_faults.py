"""What a server or the network can do to a call, on the sandbox, whose faults can be switched."""

import asyncio
import logging
from dataclasses import replace

import pytest

from console.sandbox.server import SandboxServer
from console.sandbox.world import Mode
from schemas.outcome import BrokenHistory, Busy, Failed, FateUnknown, Replied, Throttled
from tests.contract.adapter.bench import Bench, fresh, unnamed
from tests.contract.adapter.test_look import text_of
from workers.clock import SystemClock
from workers.errors import LettaUnavailableError
from workers.turn.letta.contract import Abilities, CannotTell, NotDelivered, StillRunning
from workers.turn.letta.rest import RestLetta
from workers.turn.letta.transport import connect


async def test_a_reset_after_the_request_is_an_unknown_fate_that_a_look_ends(sandbox: Bench) -> None:
    call = await sandbox.call("[[say heard anyway]]")
    sandbox.misbehave(reset_after_times=1)
    assert isinstance(await sandbox.turn(call), FateUnknown)
    assert text_of(await sandbox.look(call)) == "heard anyway"
    assert await sandbox.heard(call) == 1


@pytest.mark.parametrize("sandbox", ["sandbox-joins", "sandbox-runs"], indirect=True)
async def test_a_reset_before_the_turn_is_an_unknown_fate_that_came_to_nothing(sandbox: Bench) -> None:
    agent = await sandbox.agent()
    await sandbox.turn(await sandbox.call("earlier", agent=agent))
    call = await sandbox.call("hello", agent=agent)
    sandbox.misbehave(reset_before_times=1)
    assert isinstance(await sandbox.turn(call), FateUnknown)
    assert await sandbox.look(call) == NotDelivered()


async def test_an_answer_cut_in_the_middle_is_found(sandbox: Bench) -> None:
    call = await sandbox.call("[[say whole]]")
    sandbox.misbehave(drop_times=1)
    cut = await sandbox.turn(call)
    assert isinstance(cut, FateUnknown)
    assert text_of(await sandbox.look(call, cut.run_id)) == "whole"


@pytest.mark.parametrize("sandbox", ["sandbox-joins"], indirect=True)
async def test_a_cut_stream_remembers_its_run(sandbox: Bench) -> None:
    call = await sandbox.call("[[delay 0.5]] [[say whole]]")
    named: list[str] = []

    async def run_named(run_id: str) -> None:
        named.append(run_id)
        assert sandbox.sandbox is not None
        sandbox.sandbox.waits.crash()

    cut = await sandbox.letta.turn(sandbox.context, call, run_named)
    assert isinstance(cut, FateUnknown)
    assert [cut.run_id] == named


@pytest.mark.parametrize("sandbox", ["sandbox-joins", "sandbox-runs"], indirect=True)
async def test_a_run_left_behind_by_a_dead_server_cannot_be_told_for_ever(sandbox: Bench) -> None:
    call = await sandbox.call("hello", deadline=1.0)
    sandbox.misbehave(orphan_times=1)
    cut = await sandbox.turn(call)
    assert isinstance(cut, FateUnknown)
    fate = await sandbox.look(call, cut.run_id, deadline=1.0)
    assert isinstance(fate, StillRunning)
    patient_no_more = RestLetta(connect(sandbox.url), SystemClock(), settle_seconds=0.1, orphaned_seconds=0.0)
    try:
        # The server's clock, to the second, has to pass the run's start.
        late = replace(call, deadline_seconds=5.0)
        assert isinstance(await patient_no_more.look(sandbox.context, late, fate.run_id, 0), CannotTell)
    finally:
        await patient_no_more.close()


@pytest.mark.parametrize("sandbox", ["sandbox-runs"], indirect=True)
async def test_a_server_without_any_run_on_record_proves_nothing(sandbox: Bench) -> None:
    call = await sandbox.call("never sent")
    assert isinstance(await sandbox.look(call), CannotTell)


@pytest.mark.parametrize("sandbox", ["sandbox-runs"], indirect=True)
async def test_a_request_that_was_still_on_its_way_is_waited_for(sandbox: Bench) -> None:
    """Between a look that finds nothing and its second thoughts, the turn begins."""
    call = await sandbox.call("[[delay 0.5]] [[say on its way]]")
    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(sandbox.look(call))
        await asyncio.sleep(0.1)
        await sandbox.turn(call)
    assert text_of(looking.result()) == "on its way"


async def test_a_refusal_of_lettas_own_keeps_its_retry_after(sandbox: Bench) -> None:
    sandbox.misbehave(fail_status=429, fail_times=1, retry_after_seconds=7)
    outcome = await sandbox.turn(await sandbox.call("hello"))
    assert isinstance(outcome, Throttled)
    assert outcome.whole_tenant
    assert outcome.retry_after_ms == 7_000


async def test_a_history_that_the_model_refuses_is_no_fault_of_the_message(sandbox: Bench) -> None:
    """And nothing of the message is left in the agent's thread: it can be sent again once the agent is mended."""
    call = await sandbox.call("hello")
    sandbox.misbehave(broken_history_times=1)
    outcome = await sandbox.turn(call)
    assert isinstance(outcome, BrokenHistory)
    assert "No tool output found for function call" in outcome.detail
    assert await sandbox.heard(call) == 0
    # The next attempt goes under an epoch, and so an otid, of its own.
    assert isinstance(await sandbox.turn(replace(call, otid=fresh("otid"))), Replied)


@pytest.mark.parametrize(("status", "counts"), [(500, True), (503, False), (401, False)])
async def test_a_server_that_is_ill_says_whose_attempt_it_was(sandbox: Bench, status: int, *, counts: bool) -> None:
    call = await sandbox.call("hello")
    sandbox.misbehave(fail_status=status, fail_times=1)
    outcome = await sandbox.turn(call)
    assert isinstance(outcome, Failed)
    assert outcome.counts is counts
    assert isinstance(await sandbox.turn(call), Replied)


async def test_busy_is_read_from_the_body(sandbox: Bench) -> None:
    sandbox.misbehave(busy_times=1)
    assert isinstance(await sandbox.turn(await sandbox.call("hello")), Busy)


async def test_a_server_that_never_answers_is_cut(sandbox: Bench) -> None:
    sandbox.misbehave(hang_times=1)
    outcome = await sandbox.turn(await sandbox.call("hello", deadline=0.5))
    assert isinstance(outcome, FateUnknown)


async def test_a_server_that_lost_its_redis_is_called_the_other_way_in_the_same_turn() -> None:
    async with SandboxServer(Mode.JOINS) as server:
        letta = RestLetta(connect(server.base_url), SystemClock())
        try:
            bench = Bench("changing", server.base_url, connect(server.base_url), letta, await letta.abilities(), "acme")
            assert bench.abilities.joins
            server.world.mode = Mode.RUNS
            call = await bench.call("[[say all the same]]")
            outcome = await bench.turn(call)
            assert isinstance(outcome, Replied)
            assert outcome.text == "all the same"
            assert await bench.heard(call) == 1
            assert not (await letta.abilities()).joins
            await bench.client.close()
        finally:
            await letta.close()


async def test_a_server_that_is_down_was_sent_nothing() -> None:
    async with SandboxServer() as server:
        url = server.base_url
    letta = RestLetta(connect(url), SystemClock())
    unasked = Abilities(joins=True, lists_runs=True, locks=True, version="", simulated=False)
    bench = Bench("down", url, connect(url), letta, unasked, "acme")
    call = await bench.call("hello", agent="agent-00000000-0000-4000-8000-000000000000")
    try:
        outcome = await letta.turn(bench.context, call, unnamed)
        assert isinstance(outcome, Failed)
        assert not outcome.counts
        with pytest.raises(LettaUnavailableError):
            await letta.abilities()
        with pytest.raises(LettaUnavailableError) as refused:
            await letta.awake()
        assert not refused.value.answered
        with pytest.raises(LettaUnavailableError):
            await letta.agent(bench.context, call.agent)
        with pytest.raises(LettaUnavailableError):
            _ = [agent async for agent in letta.agents(bench.context)]
        # Not CannotTell: the server may know. It is to be asked again.
        with pytest.raises(LettaUnavailableError):
            await bench.look(call)
    finally:
        await letta.close()
        await bench.client.close()


async def test_a_server_is_asked_anew_and_not_remembered_to_be_well() -> None:
    """It was well a moment ago, and still is what it was when it is back."""
    async with SandboxServer() as server:
        letta = RestLetta(connect(server.base_url), SystemClock())
        await letta.abilities()
        await letta.awake()
        await server.stop()
        with pytest.raises(LettaUnavailableError):
            await letta.awake()
        await server.start()
        await letta.awake()
    await letta.close()


async def test_a_server_that_went_down_since_it_was_asked_was_sent_nothing() -> None:
    async with SandboxServer() as server:
        letta = RestLetta(connect(server.base_url), SystemClock())
        bench = Bench("gone", server.base_url, connect(server.base_url), letta, await letta.abilities(), "acme")
        call = await bench.call("hello")
        await bench.client.close()
    try:
        outcome = await bench.turn(call)
        assert isinstance(outcome, Failed | FateUnknown)
        again = await bench.turn(call)
        assert isinstance(again, Failed)
        assert not again.counts
    finally:
        await letta.close()


async def test_neither_the_message_nor_the_key_is_logged_or_shown(
    sandbox: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    content = "the patient is called Featherstonehaugh"
    call = await sandbox.call(f"{content} [[status 500]]")
    outcomes = [await sandbox.turn(call), await sandbox.turn(replace(call, content=content, otid="another"))]
    shown = caplog.text + repr(outcomes[0]) + repr(sandbox.letta) + repr(sandbox.client)
    assert isinstance(outcomes[1], Replied)
    assert "Featherstonehaugh" not in shown
    assert "a-key-that-nobody-may-see" not in shown
