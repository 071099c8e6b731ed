"""The stub of a Letta server: our own adapter must take it for one."""

import pytest

from bench.agents import TENANT, agent_id
from bench.stub import Stub
from schemas.context import service_context
from schemas.outcome import Replied
from workers.clock import SystemClock
from workers.turn.letta.contract import Call
from workers.turn.letta.rest import RestLetta
from workers.turn.letta.transport import connect

CONTEXT = service_context(TENANT, "test")


@pytest.mark.parametrize("streams", [False, True])
async def test_the_adapter_reads_its_answers(*, streams: bool) -> None:
    stub = Stub(delay_seconds=0, streams=streams, agents=3)
    letta = RestLetta(connect(await stub.start()), SystemClock())
    named: list[str] = []

    async def run_named(run_id: str) -> None:
        named.append(run_id)

    try:
        assert (await letta.abilities()).lists_runs is streams
        assert [agent.id async for agent in letta.agents(CONTEXT)] == [agent_id(number) for number in range(3)]
        outcome = await letta.turn(CONTEXT, Call(agent_id(1), "@0.5 hello", "otid", None, 10), run_named)
    finally:
        await letta.close()
        await stub.stop()

    assert isinstance(outcome, Replied)
    assert outcome.text == "ok"
    assert bool(named) is streams
    assert stub.requests == 1
    assert len(stub.waits) == 1
