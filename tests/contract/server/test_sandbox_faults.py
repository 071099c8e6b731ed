"""What only the sandbox can do: break on request, and keep a witness of every turn that survives a kill."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import letta_client
import pytest

from console.sandbox.server import SandboxServer
from console.sandbox.world import Mode
from tests.contract.server.target import MODEL, Target, body_of, drain, fresh, texts, until, user

ROOT = Path(__file__).parents[3]


async def turns(sandbox: Target, agent_id: str) -> int:
    """How many turns of the agent began."""
    state = (await sandbox.http.get("/_sandbox/state")).json()
    return int(state["agents"].get(agent_id, {}).get("turns", 0))


async def send(sandbox: Target, agent_id: str, text: str = "hello") -> Any:
    return await sandbox.client.agents.messages.create(agent_id, messages=user(text))


async def test_every_answer_is_marked_as_simulated(sandbox: Target) -> None:
    health = await sandbox.http.get("/v1/health/")
    assert "sandbox" in health.json()["version"]
    agent_id = await sandbox.agent()
    for path in (f"/v1/agents/{agent_id}", "/v1/agents/agent-x", "/v1/nowhere"):
        assert (await sandbox.http.get(path)).headers["x-postroom-sandbox"] == "1"
    streamed = await sandbox.http.post(f"/v1/agents/{agent_id}/messages/stream", json={"messages": user("x")})
    assert streamed.headers["x-postroom-sandbox"] == "1"


@pytest.mark.parametrize(
    ("where", "place"), [("letta", "detail"), ("llm", "error")], ids=["letta refuses", "the model fails"]
)
async def test_two_kinds_of_429(sandbox: Target, where: str, place: str) -> None:
    agent_id = await sandbox.agent()
    times = 1 if where == "letta" else 3
    fault = {"fail_status": 429, "fail_times": times, "fail_where": where, "retry_after_seconds": 7}
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", fault)
    with pytest.raises(letta_client.RateLimitError) as caught:
        await send(sandbox, agent_id)
    assert place in body_of(caught)
    assert caught.value.response.headers.get("retry-after") == ("7" if where == "letta" else None)
    assert texts(await send(sandbox, agent_id)) == ["echo:hello#aaf4c61d"]


async def test_a_failing_server_fails_for_every_agent_until_it_is_well(sandbox: Target) -> None:
    one, two = await sandbox.agent(), await sandbox.agent()
    await sandbox.sandbox("behaviour", {"fail_status": 503})
    for agent_id in (one, two):
        with pytest.raises(letta_client.InternalServerError):
            await send(sandbox, agent_id)
    await sandbox.sandbox("behaviour", {})
    assert texts(await send(sandbox, two))
    assert await turns(sandbox, one) == 0


async def test_busy_a_few_times(sandbox: Target) -> None:
    agent_id = await sandbox.agent()
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", {"busy_times": 2})
    for _ in range(2):
        with pytest.raises(letta_client.ConflictError) as caught:
            await sandbox.background(agent_id, "x", fresh("otid"))
        assert body_of(caught)["run_id"].startswith("run-")
    assert texts(await drain(await sandbox.background(agent_id, "[[say free]]", fresh("otid")))) == ["free"]


async def test_a_pending_approval_on_request(sandbox: Target) -> None:
    agent_id = await sandbox.agent()
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", {"pending_approval": True})
    with pytest.raises(letta_client.ConflictError) as caught:
        await send(sandbox, agent_id)
    assert body_of(caught)["detail"]["code"] == "PENDING_APPROVAL"
    agent = await sandbox.client.agents.retrieve(agent_id, include=["agent.pending_approval"])
    assert agent.pending_approval.id == body_of(caught)["detail"]["pending_request_id"]


async def test_a_reset_before_the_turn_leaves_no_turn(sandbox: Target) -> None:
    agent_id = await sandbox.agent()
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", {"reset_before_times": 1})
    with pytest.raises(letta_client.APIConnectionError):
        await send(sandbox, agent_id)
    assert await turns(sandbox, agent_id) == 0


@pytest.mark.parametrize("fault", ["reset_after_times", "drop_times"])
async def test_a_reset_after_the_turn_began_leaves_a_whole_turn(sandbox: Target, fault: str) -> None:
    agent_id = await sandbox.agent()
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", {fault: 1, "latency_seconds": 0.05})
    with pytest.raises(letta_client.APIConnectionError):
        await send(sandbox, agent_id)
    await sandbox.run_with_status(agent_id, "completed")
    assert len(await sandbox.messages(agent_id)) == 2


@pytest.mark.parametrize("fault", ["reset_after_times", "drop_times"])
async def test_a_cut_stream_is_not_an_sdk_error_and_its_run_can_be_joined(sandbox: Target, fault: str) -> None:
    agent_id, otid = await sandbox.agent(), fresh("otid")
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", {fault: 1, "latency_seconds": 0.05})
    with pytest.raises(httpx.TransportError):
        await drain(await sandbox.background(agent_id, "[[say whole]]", otid))
    assert texts(await drain(await sandbox.background(agent_id, "[[say whole]]", otid))) == ["whole"]
    assert await turns(sandbox, agent_id) == 1


async def test_an_orphaned_run_keeps_its_lock_and_its_stream_never_ends(sandbox: Target) -> None:
    agent_id, otid = await sandbox.agent(), fresh("otid")
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", {"orphan_times": 1, "latency_seconds": 0.05})
    with pytest.raises(httpx.TransportError):
        await drain(await sandbox.background(agent_id, "lost", otid))
    (run,) = await sandbox.runs(agent_id)
    assert run.status == "running"
    assert await sandbox.messages(agent_id) == []
    with pytest.raises(letta_client.ConflictError):
        await sandbox.background(agent_id, "next", fresh("otid"))
    joined = aiter(await sandbox.background(agent_id, "lost", otid))
    assert (await anext(joined)).run_id == run.id
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(joined), 0.3)
    await sandbox.sandbox("clock", {"seconds": 301})
    assert texts(await drain(await sandbox.background(agent_id, "[[say freed]]", fresh("otid")))) == ["freed"]


async def test_a_blocking_run_that_is_orphaned_stays_created(sandbox: Target) -> None:
    agent_id = await sandbox.agent()
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", {"orphan_times": 1, "orphan_step": 2})
    with pytest.raises(letta_client.APIConnectionError):
        await send(sandbox, agent_id, "[[tool missing {}]] [[say never]]")
    assert [run.status for run in await sandbox.runs(agent_id)] == ["created"]
    landed = [message.message_type for message in await sandbox.messages(agent_id)]
    assert landed == ["user_message", "tool_call_message", "tool_return_message"]


async def test_an_error_in_a_later_step_leaves_what_landed(sandbox: Target) -> None:
    agent_id = await sandbox.agent()
    fault = {"fail_status": 500, "fail_where": "llm", "fail_step": 2, "fail_times": 3}
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", fault)
    with pytest.raises(letta_client.InternalServerError):
        await send(sandbox, agent_id, "[[tool missing {}]] [[say never]]")
    assert len(await sandbox.messages(agent_id)) == 3
    assert [run.status for run in await sandbox.runs(agent_id)] == ["failed"]


async def test_an_otid_is_forgotten_after_three_hours(sandbox: Target) -> None:
    agent_id, otid = await sandbox.agent(), fresh("otid")
    await drain(await sandbox.background(agent_id, "x", otid))
    await sandbox.sandbox("clock", {"seconds": 10_801})
    await drain(await sandbox.background(agent_id, "x", otid))
    assert await turns(sandbox, agent_id) == 2


async def test_a_stream_is_kept_for_three_hours(sandbox: Target) -> None:
    agent_id = await sandbox.agent()
    run_id = (await drain(await sandbox.background(agent_id, "x", fresh("otid"))))[0].run_id
    await sandbox.sandbox("clock", {"seconds": 10_801})
    with pytest.raises(letta_client.APIStatusError) as caught:
        await sandbox.client.runs.messages.stream(run_id, starting_after=0)
    assert caught.value.status_code == 410


async def test_a_model_that_times_out_is_504(sandbox: Target) -> None:
    agent_id = await sandbox.agent()
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", {"llm_timeout_times": 1})
    with pytest.raises(letta_client.InternalServerError) as caught:
        await send(sandbox, agent_id)
    assert (caught.value.status_code, body_of(caught)["error"]["type"]) == (504, "llm_timeout")


async def test_forgotten_runs_are_404_and_their_otids_deliver_again(sandbox: Target) -> None:
    agent_id, otid = await sandbox.agent(), fresh("otid")
    run_id = (await drain(await sandbox.background(agent_id, "x", otid)))[0].run_id
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", {"forget_runs": True})
    with pytest.raises(letta_client.NotFoundError):
        await sandbox.client.runs.retrieve(run_id)
    await drain(await sandbox.background(agent_id, "x", otid))
    assert await turns(sandbox, agent_id) == 2


async def test_a_hanging_model_holds_the_run(sandbox: Target) -> None:
    agent_id = await sandbox.agent()
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", {"hang": True})
    with pytest.raises(letta_client.APITimeoutError):
        await sandbox.hurried(0.3).agents.messages.create(agent_id, messages=user("x"))
    assert [run.status for run in await sandbox.runs(agent_id)] == ["created"]
    await sandbox.sandbox("behaviour", {"crash": True})

    async def dead() -> bool:
        state = (await sandbox.http.get("/_sandbox/state")).json()
        return bool(state["agents"][agent_id]["in_flight"] == 0)

    await until(dead)
    assert [run.status for run in await sandbox.runs(agent_id)] == ["created"]


async def test_a_slow_first_byte(sandbox: Target) -> None:
    agent_id = await sandbox.agent()
    await sandbox.sandbox(f"agents/{agent_id}/behaviour", {"slow_first_byte_seconds": 1})
    with pytest.raises(letta_client.APITimeoutError):
        await sandbox.hurried(0.3).agents.messages.create(agent_id, messages=user("x"))
    assert len(await sandbox.messages(agent_id)) == 2


async def test_a_full_server_queues_inside_and_never_refuses() -> None:
    async with (
        SandboxServer(Mode.JOINS) as server,
        httpx.AsyncClient(base_url=server.base_url, timeout=30) as http,
    ):
        await http.post("/_sandbox/behaviour", json={"max_concurrent": 3, "latency_seconds": 0.05})
        created = [await http.post("/v1/agents/", json={"name": f"a{n}", "model": MODEL}) for n in range(12)]
        answers = await asyncio.gather(
            *(http.post(f"/v1/agents/{each.json()['id']}/messages", json={"input": "x"}) for each in created)
        )
        assert {answer.status_code for answer in answers} == {200}
        state = (await http.get("/_sandbox/state")).json()
        assert (state["max_in_flight"], state["turns"], state["in_flight"], state["queued"]) == (3, 12, 0, 0)
        await http.post("/_sandbox/reset")
        assert (await http.get("/_sandbox/state")).json()["turns"] == 0


async def test_the_state_knows_the_most_turns_an_agent_ever_had_at_once(sandbox: Target) -> None:
    agent_id = await sandbox.agent()
    await asyncio.gather(*(send(sandbox, agent_id, f"{n} [[delay 0.2]]") for n in range(3)))
    state = (await sandbox.http.get("/_sandbox/state")).json()
    assert state["agents"][agent_id]["max_in_flight"] == 3


@pytest.mark.parametrize("body", [{"latncy_seconds": 1}, {"fail_where": "mars"}, {"latency_seconds": "long"}])
async def test_a_typing_slip_in_a_fault_is_refused(sandbox: Target, body: dict[str, Any]) -> None:
    agent_id = await sandbox.agent()
    answer = await sandbox.http.post(f"/_sandbox/agents/{agent_id}/behaviour", json=body)
    assert answer.status_code == 422


async def test_text_moves_from_hand_to_hand(sandbox: Target) -> None:
    team = {role: await sandbox.agent(tags=[f"role:{role}"]) for role in ("researcher", "writer", "editor")}

    async def ask(role: str, text: str) -> str:
        (answer,) = texts(await send(sandbox, team[role], text))
        return answer

    findings = await ask("researcher", "Topic: tidal power")
    draft = await ask("writer", f"Write about these findings:\n{findings}")
    verdict = await ask("editor", f"Judge this draft:\n{draft}")
    second = await ask("writer", f"{findings}\n\nThe editor says:\n{verdict}")
    final = await ask("editor", f"Judge this draft:\n{second}")
    assert [line[:2] for line in findings.splitlines()[1:]] == ["1.", "2.", "3."]
    assert findings.splitlines()[1][3:].rstrip(".") in draft
    assert verdict.startswith("REVISE")
    assert final.startswith("APPROVED")
    assert second in final


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A sandbox in a process of its own, and its base URL."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "console.sandbox", "--port", "0", *arguments, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        assert started.stdout is not None
        line = await asyncio.wait_for(started.stdout.readline(), 20)
        yield started, json.loads(line)["base_url"]
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def test_the_turn_log_survives_kill_9(tmp_path: Path) -> None:
    log = tmp_path / "turns.jsonl"
    async with process("--turn-log", str(log)) as (server, url), httpx.AsyncClient(base_url=url, timeout=20) as http:
        agent = (await http.post("/v1/agents/", json={"name": "witness", "model": MODEL})).json()["id"]
        await http.post(f"/v1/agents/{agent}/messages", json={"messages": user("one", "otid-1")})
        cut = asyncio.create_task(
            http.post(f"/v1/agents/{agent}/messages", json={"messages": user("two [[delay 20]]", "otid-2")})
        )

        async def second_turn_began() -> bool:
            return log.read_text().count('"event":"begun"') == 2

        await until(second_turn_began)
        server.send_signal(signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            await cut
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    seen = [(line["event"], line["otid"]) for line in lines]
    assert seen == [
        ("request", "otid-1"),
        ("begun", "otid-1"),
        ("ended", "otid-1"),
        ("request", "otid-2"),
        ("begun", "otid-2"),
    ]
    begun = lines[1]
    assert (begun["agent"], begun["agent_name"], begun["content_head"]) == (agent, "witness", "one")
    assert begun["run"].startswith("run-")


async def test_the_process_ends_cleanly_and_can_start_with_a_team() -> None:
    async with process("--seed-demo", "--mode", "plain") as (server, url):
        async with httpx.AsyncClient(base_url=url) as http:
            agents = (await http.get("/v1/agents/", params={"tags": "role:editor"})).json()
            assert sorted(agent["name"] for agent in agents) == ["acme-editor", "globex-editor"]
            assert (await http.get("/v1/runs/")).status_code == 404
        server.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.wait(), 10) == 0


async def test_the_process_ends_cleanly_with_turns_and_readers_hanging() -> None:
    async with process() as (server, url), httpx.AsyncClient(base_url=url, timeout=20) as http:
        agent = (await http.post("/v1/agents/", json={"name": "stuck", "model": MODEL})).json()["id"]
        body = {"agent_id": agent, "background": True, "messages": user("[[hang]]", "otid-1")}
        calls = [
            asyncio.create_task(http.post("/v1/conversations/default/messages", json=body)),
            asyncio.create_task(http.post(f"/v1/agents/{agent}/messages", json={"input": "[[hang]]"})),
        ]

        async def both_hang() -> bool:
            return bool((await http.get("/_sandbox/state")).json()["in_flight"] == len(calls))

        await until(both_hang)
        server.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.wait(), 10) == 0
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, httpx.TransportError) for result in results)


async def test_start_and_stop_in_any_order() -> None:
    server = SandboxServer()
    await server.stop()
    first = await server.start()
    assert await server.start() == first
    await server.stop()
    await server.stop()
