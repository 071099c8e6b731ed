"""What became of a call that was cut. A look never begins a turn."""

import asyncio
import time
from dataclasses import replace

import pytest

from schemas.outcome import FateUnknown, Rejected, Replied
from tests.contract.adapter.bench import TOOL, Bench
from workers.clock import SystemClock
from workers.turn.letta.contract import CannotTell, Ended, NotDelivered, StillRunning
from workers.turn.letta.fate import Search


def text_of(fate: object) -> str:
    assert isinstance(fate, Ended), fate
    assert isinstance(fate.outcome, Replied), fate
    return fate.outcome.text


async def test_a_cut_turn_is_found_with_its_reply(bench: Bench) -> None:
    call = await bench.call("[[delay 1.5]] [[say late]]", deadline=0.6)
    cut = await bench.turn(call)
    assert isinstance(cut, FateUnknown)
    assert text_of(await bench.look(call, cut.run_id)) == "late"
    # And again without the run id, as after a worker that died before it could store it.
    assert text_of(await bench.look(call)) == "late"
    assert await bench.heard(call) == 1


async def test_a_turn_that_ended_unheard_is_found(recording: Bench) -> None:
    call = await recording.call("[[say done]]")
    replied = await recording.turn(call)
    assert isinstance(replied, Replied)
    for run_id in (replied.run_id, None):
        fate = await recording.look(call, run_id)
        assert text_of(fate) == "done"
        assert isinstance(fate, Ended)
        assert isinstance(fate.outcome, Replied)
        assert fate.outcome.run_id == replied.run_id
        assert fate.outcome.usage == replied.usage


async def test_what_was_never_sent_was_not_delivered(recording: Bench) -> None:
    agent = await recording.agent()
    await recording.turn(await recording.call("an earlier message", agent=agent))
    call = await recording.call("never sent", agent=agent)
    assert await recording.look(call) == NotDelivered()
    assert await recording.heard(call) == 0


@pytest.mark.parametrize("sandbox", ["sandbox-plain"], indirect=True)
async def test_where_only_the_thread_can_be_read_absence_proves_nothing(sandbox: Bench) -> None:
    call = await sandbox.call("never sent")
    assert isinstance(await sandbox.look(call, deadline=1.0), CannotTell)


async def test_a_turn_that_failed_is_told_where_it_is_known(joining: Bench) -> None:
    call = await joining.call("[[status 400]]")
    failed = await joining.turn(call)
    assert isinstance(failed, Rejected)
    assert await joining.look(call) == Ended(failed)


async def test_a_failure_known_by_its_run_is_told(recording: Bench) -> None:
    call = await recording.call("[[status 400]]")
    await recording.turn(call)
    runs = await recording.client.runs.list(agent_id=call.agent)
    fate = await recording.look(call, runs.items[0].id)
    assert isinstance(fate, Ended)
    assert isinstance(fate.outcome, Rejected)


@pytest.mark.parametrize("sandbox", ["sandbox-runs"], indirect=True)
async def test_a_failed_run_without_messages_delivered_nothing(sandbox: Bench) -> None:
    call = await sandbox.call("[[status 500]]")
    await sandbox.turn(call)
    assert await sandbox.look(call) == NotDelivered()


async def test_another_messages_run_is_not_taken_for_ours(recording: Bench) -> None:
    agent = await recording.agent()
    other = await recording.turn(await recording.call("[[say for another]]", agent=agent))
    assert isinstance(other, Replied)
    call = await recording.call("never sent", agent=agent)
    assert await recording.look(call, other.run_id) == NotDelivered()


async def test_a_run_id_nobody_knows_is_no_obstacle(recording: Bench) -> None:
    call = await recording.call("[[say here]]")
    await recording.turn(call)
    assert text_of(await recording.look(call, "run-00000000-0000-4000-8000-000000000000")) == "here"
    assert text_of(await recording.look(call, "nonsense")) == "here"


@pytest.mark.parametrize("sandbox", ["sandbox-joins", "sandbox-runs"], indirect=True)
async def test_a_run_that_began_and_is_gone_proves_nothing(sandbox: Bench) -> None:
    """A server that came back without its runs: the turn was begun, so "nothing is there" is no leave to resend."""
    agent = await sandbox.agent()
    call = await sandbox.call("[[delay 30]] lost", agent=agent, deadline=0.5)
    cut = await sandbox.turn(call)
    assert isinstance(cut, FateUnknown)
    assert cut.run_id is not None
    assert sandbox.sandbox is not None
    sandbox.sandbox.waits.crash()
    sandbox.sandbox.forget_runs(agent)
    await sandbox.turn(await sandbox.call("the server goes on"))

    assert isinstance(await sandbox.look(call, cut.run_id), CannotTell)


async def test_a_message_deep_in_the_thread_is_found_page_by_page(bench: Bench) -> None:
    """By the thread alone, in pages of four, of which some hold no user message at all."""
    agent = await bench.agent(tools=[TOOL])
    call = await bench.call("[[say found]]", agent=agent)
    await bench.turn(call)
    steps = "".join(f'[[tool {TOOL} {{"query": "x"}}]]' for _ in range(5))
    for _ in range(2):
        await bench.turn(await bench.call(f"{steps} [[say later]]", agent=agent))
    search = Search(bench.client, SystemClock(), call, 0, settle_seconds=0, orphaned_seconds=900, page_size=4)
    fate = await search.fate(replace(bench.abilities, joins=False, lists_runs=False), None)
    assert text_of(fate) == "found"


async def test_a_run_that_was_cancelled_says_so(joining: Bench) -> None:
    call = await joining.call("[[delay 2]] hello")

    async def cancel(run_id: str) -> None:
        await joining.client.agents.messages.cancel(call.agent, run_ids=[run_id])

    outcome = await joining.letta.turn(joining.context, call, cancel)
    assert isinstance(outcome, Replied)
    assert outcome.stop_reason == "cancelled"


async def test_an_approval_asked_for_is_a_reply(bench: Bench) -> None:
    rules = [{"type": "requires_approval", "tool_name": TOOL}]
    agent = await bench.agent(tools=[TOOL], tool_rules=rules)
    call = await bench.call(f'[[tool {TOOL} {{"query": "x"}}]]', agent=agent)
    await bench.turn(call)
    fate = await bench.look(call)
    assert isinstance(fate, Ended)
    assert isinstance(fate.outcome, Replied)
    assert fate.outcome.stop_reason == "requires_approval"


async def test_a_turn_that_runs_past_the_look_still_runs(recording: Bench) -> None:
    pace = recording.pace
    call = await recording.call(f"[[delay {2 * pace + 1}]] [[say at last]]", deadline=0.5 * pace)
    cut = await recording.turn(call)
    assert isinstance(cut, FateUnknown)
    fate = await recording.look(call, cut.run_id, deadline=1.0 * pace)
    assert isinstance(fate, StillRunning)
    over_at = time.monotonic() + 30 * pace
    while isinstance(fate, StillRunning) and time.monotonic() < over_at:
        # As a worker does: a look has a bound of its own.
        fate = await recording.look(call, fate.run_id)
    assert text_of(fate) == "at last"


async def test_a_look_does_not_sit_out_a_run_whose_server_died(recording: Bench) -> None:
    """Such a run never ends (LETTA.md section 4), and the look holds a place that other agents' turns need."""
    call = await recording.call("[[delay 60]]", deadline=0.5 * recording.pace)
    cut = await recording.turn(call)
    assert isinstance(cut, FateUnknown)
    began = time.monotonic()
    assert isinstance(await recording.look(call, cut.run_id, deadline=60), StillRunning)
    assert time.monotonic() - began < 10 * recording.pace


async def test_two_looks_at_once_agree(recording: Bench) -> None:
    call = await recording.call("[[delay 1]] [[say both]]", deadline=0.5)
    await recording.turn(call)
    first, second = await asyncio.gather(recording.look(call), recording.look(call))
    assert text_of(first) == text_of(second) == "both"
    assert await recording.heard(call) == 1
