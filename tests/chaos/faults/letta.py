"""The Letta server fails, refuses, is busy, never answers, or is cut off."""

import asyncio
import contextlib
from dataclasses import replace

from schemas.context import Context
from tests.chaos.account import Account
from tests.chaos.rig import Plan
from tests.chaos.scene import Fault, Scene
from workers.broker import keys

JOINS = Plan()
MOST_CALLS = 12
MARGIN_MS = 2_500
"""What was on its way when the server refused, and until that is written: on machines of all kinds."""


async def fail(scene: Scene) -> str:
    """F13: 500 to every call for a while."""
    seconds = scene.scale.pick(5, 60)
    await scene.in_flight(3)
    async with scene.outage():
        await scene.rig.behave(fail_status=500)
        await asyncio.sleep(seconds)
        await scene.rig.behave()

    def bounded(done: Account) -> None:
        calls = max((len(turns.requests) for turns in done.turns.values()), default=0)
        scene.notes.append(f"at most {calls} calls for one message")
        scene.require(calls <= MOST_CALLS, f"{calls} calls for one message, {MOST_CALLS} at most")

    scene.checks.append(bounded)
    return f"Letta answers 500 for {seconds:g} s"


async def unavailable(scene: Scene) -> str:
    """F13: 503, which is the server's as a whole: no attempt is counted."""
    seconds = scene.scale.pick(5, 30)
    await scene.in_flight(3)
    async with scene.outage():
        await scene.rig.behave(fail_status=503)
        await asyncio.sleep(seconds)
        await scene.rig.behave()

    def nothing_counted(done: Account) -> None:
        scene.require(set(done.ends) == {"delivered"}, f"an outage of the server ended messages: {dict(done.ends)}")

    scene.checks.append(nothing_counted)
    return f"Letta answers 503 for {seconds:g} s"


async def gone(scene: Scene) -> str:
    """Letta is not there: connections are reset and refused."""
    seconds = scene.scale.pick(5, 30)
    await scene.in_flight(3)
    async with scene.outage():
        scene.rig.letta.refuses = True
        scene.rig.letta.reset()
        await asyncio.sleep(seconds)
        scene.rig.letta.mend()
    scene.nobody_died()
    return f"Letta's connections reset, and none accepted for {seconds:g} s"


async def throttle(scene: Scene) -> str:
    """F14: 429 with Retry-After for one tenant."""
    asked = 7
    tenant = next(iter(scene.rig.tenants))
    agent = scene.rig.tenants[tenant][0]
    await scene.in_flight(3)
    await scene.rig.behave(agent, fail_status=429, fail_times=1, retry_after_seconds=asked)
    began = await scene.rig.now_ms()

    def kept(done: Account) -> None:
        own = [one for id_, one in done.turns.items() if scene.load.accepted[id_.rpartition(":")[0]].tenant == tenant]
        others = [one for one in done.turns.values() if one not in own]
        mine = [
            turns
            for id_, turns in done.turns.items()
            if scene.load.accepted[id_.rpartition(":")[0]].agent == agent and len(turns.requests) > 1
        ]
        scene.require(bool(mine), "nothing was refused")
        if not mine:
            return
        refused_at = min(at for turns in mine for at in turns.requests if at >= began)
        until = refused_at + asked * 1000
        early = [at for turns in own for at in turns.requests if refused_at + MARGIN_MS < at < until]
        scene.require(not early, f"{len(early)} calls before the {asked} s were over")
        beside = sum(refused_at < at < until for turns in others for at in turns.requests)
        scene.require(beside > 0, "the other tenants stood still")
        last = max((at for turns in own for at in turns.requests if refused_at < at < until), default=refused_at)
        scene.notes.append(f"no call of its tenant from {last - refused_at} ms to {asked} s, {beside} of the others")

    scene.checks.append(kept)
    return f"429 with Retry-After {asked} to one call of one tenant"


async def busy(scene: Scene) -> str:
    """F15: 409 busy, three times to each agent."""
    for names in scene.rig.tenants.values():
        for name in names:
            await scene.rig.behave(name, busy_times=2)
    attempts: list[int] = []

    def uncounted(done: Account) -> None:
        scene.require(set(done.ends) == {"delivered"}, f"busy agents ended messages: {dict(done.ends)}")
        scene.require(bool(done.extra_calls), "no agent was busy")
        scene.notes.append(f"{done.extra_calls} calls were refused as busy")

    scene.checks.append(uncounted)
    await scene.in_flight(1)
    attempts.append(0)
    return "409 busy to the next two calls of every agent"


async def approval(scene: Scene) -> str:
    """F15: an agent waits for a person; its mailbox waits, the others go on; then somebody approves."""
    tenant = next(iter(scene.rig.tenants))
    agent = scene.rig.tenants[tenant][-1]
    await scene.rig.behave(agent, pending_approval=True)
    await asyncio.sleep(6)
    held = await scene.rig.client.hget(keys.of(_context(scene, tenant)).holds, scene.rig.ids[agent])
    scene.require(b"approval" in (held or b""), f"the agent is held as {held!r}")
    await _approve(scene, agent)
    return "one agent waits for an approval for 6 s, its mailbox with it; then it is given"


def _context(scene: Scene, tenant: str) -> Context:
    return next(context for context in scene.rig.contexts() if context.tenant == tenant)


async def _approve(scene: Scene, agent: str) -> None:
    id_ = scene.rig.ids[agent]
    rows = (await scene.rig.admin.get(f"/v1/agents/{id_}/messages", params={"order": "asc", "limit": 1000})).json()
    asked = [row for row in rows if row["message_type"] == "approval_request_message"][-1]
    call = asked["tool_call"]["tool_call_id"]
    answer = {"type": "approval", "tool_call_id": call, "approve": True, "reason": ""}
    body = {"messages": [{"type": "approval", "approvals": [answer]}]}
    (await scene.rig.admin.post(f"/v1/agents/{id_}/messages", json=body)).raise_for_status()


async def hang(scene: Scene) -> str:
    """F16: calls that are accepted and never answered."""
    names = [agents[0] for agents in scene.rig.tenants.values()]
    for name in names:
        await scene.rig.behave(name, hang_times=1)
    scene.allowed_to_end = ("delivered", "unknown")
    await scene.in_flight(1)

    cut: list[int] = []

    async def crash() -> None:
        # Locks of turns that died stay for 300 s (LETTA.md section 3): time passes.
        await asyncio.sleep(scene.rig.plan.deadline_seconds * 3)
        cut.append(await scene.rig.running_now())
        await scene.rig.behave(crash=True)
        await scene.rig.admin.post("/_sandbox/clock", json={"seconds": 400})

    with contextlib.suppress(asyncio.CancelledError):
        await crash()

    def told(done: Account) -> None:
        # The server's death that frees the locks takes along what runs then: its fate is as unknown.
        most = len(names) + sum(cut)
        scene.notes.append(f"{done.ends['unknown']} ended as unknown, of {most} that could")
        scene.require(done.ends["unknown"] <= most, f"{done.ends['unknown']} ended as unknown, {most} could")

    scene.checks.append(told)
    return f"{len(names)} calls never answered (deadline {scene.rig.plan.deadline_seconds:g} s)"


async def reset(scene: Scene) -> str:
    """F18: connections reset before, during and after the request."""
    times = scene.scale.count(4, 20)
    await scene.in_flight(3)
    for _ in range(times):
        await scene.strike("outage")
        match scene.random.randrange(3):
            case 0:
                scene.rig.letta.refuses = True
                await asyncio.sleep(0.3)
                scene.rig.letta.mend()
            case 1:
                scene.rig.letta.reset()
            case _:
                scene.rig.letta.answers_to_lose = 3
        await asyncio.sleep(scene.random.uniform(0.3, 1.2))
    scene.rig.letta.mend()
    scene.nobody_died()
    return f"connections to Letta refused, reset, or cut before the answer, {times} times by seed"


async def crawl(scene: Scene) -> str:
    """Answers come through at a crawl."""
    seconds = scene.scale.pick(3, 15)
    await scene.in_flight(3)
    async with scene.outage():
        scene.rig.letta.bytes_per_second = 2_000
        await asyncio.sleep(seconds)
        scene.rig.letta.mend()
    return f"the way to Letta at 2 kB/s for {seconds:g} s"


FAULTS = [
    Fault(
        "F13",
        "Letta answers 500",
        fail,
        plan=JOINS,
        messages=(60, 1500),
        per_second=(10, 20),
        extra_calls=None,
        limit_seconds=(180, 300),
        p95_seconds=60,
        recovery_seconds=60,
    ),
    Fault("F13 503", "Letta is not available", unavailable, plan=JOINS, extra_calls=None, quick=False),
    Fault(
        "F13 gone",
        "Letta does not answer",
        gone,
        plan=JOINS,
        messages=(80, 800),
        per_second=(10, 20),
        extra_calls=None,
        quick=False,
    ),
    Fault(
        "F14",
        "429 with Retry-After",
        throttle,
        plan=Plan(mode="runs"),
        messages=(120, 300),
        per_second=(12, 25),
        extra_calls=(12, 12),
    ),
    Fault("F15", "409 busy", busy, plan=Plan(mode="runs"), extra_calls=None),
    Fault("F15 approval", "an agent waits for an approval", approval, plan=JOINS, extra_calls=None, quick=False),
    Fault(
        "F16",
        "Letta never answers",
        hang,
        plan=replace(JOINS, deadline_seconds=4),
        options=(("on_unknown", "never_resend"),),
        extra_calls=None,
        limit_seconds=(90, 120),
        quick=False,
    ),
    Fault(
        "F18",
        "connections to Letta cut",
        reset,
        plan=JOINS,
        messages=(80, 500),
        per_second=(12, 25),
        extra_calls=None,
    ),
    Fault("F18 slow", "the way to Letta crawls", crawl, plan=JOINS, extra_calls=(0, 0), quick=False),
]
