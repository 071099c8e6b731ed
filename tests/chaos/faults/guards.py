"""What must hold while things go wrong around it: fairness, rates, and agents that are gone."""

import asyncio
from collections import defaultdict

from tests.chaos.account import Account, Turns, turns_of
from tests.chaos.load import Load
from tests.chaos.rig import Plan
from tests.chaos.scene import Fault, Scene

CAPACITY, TURN_SECONDS = 10, 0.2
"""Turns at once and their length: 50 a second."""
FLOOD_PER_SECOND = 100
WAIT_MS, LONGEST_WAIT_MS = 1000, 2000
BUCKET_MS = 5_000
BARS = " ▁▂▃▄▅▆▇█"
LIMIT, WINDOW_MS = 60, 60_000
SHARE = 0.95


async def flood(scene: Scene) -> str:
    """F27: one tenant sends a hundred times what each of the others does."""
    rig, load = scene.rig, scene.load
    await rig.behave(max_concurrent=CAPACITY)
    seconds = load.count / load.per_second
    flooder = next(iter(rig.tenants))
    number = int(FLOOD_PER_SECOND * seconds)
    beside = Load(rig, "flood", number, FLOOD_PER_SECOND, TURN_SECONDS, only=(flooder,))
    beside.over.set()
    began = await rig.now_ms()
    await asyncio.gather(beside.run(), asyncio.sleep(seconds))
    ended = await rig.now_ms()

    def fair(done: Account) -> None:
        light = _waits(done.turns, load)
        turns = {id_: one for id_, one in turns_of(_log(scene)).items() if id_.startswith("flood-")}
        heavy = _waits(turns, beside)
        inside = sum(1 for at, _ in heavy if began <= at <= ended)
        p95, p99 = _percentile(light, 0.95), _percentile(light, 0.99)
        scene.notes.append(
            f"waits of the nine: p50 {_percentile(light, 0.5)} ms, p95 {p95} ms, p99 {p99} ms; "
            f"the flooding one: p95 {_percentile(heavy, 0.95) / 1000:.0f} s, {inside / seconds:.0f} turns a second"
        )
        scene.require(p95 <= WAIT_MS, f"p95 of the quiet tenants' waits is {p95} ms, {WAIT_MS} at most")
        scene.require(p99 <= LONGEST_WAIT_MS, f"p99 of the quiet tenants' waits is {p99} ms, {LONGEST_WAIT_MS} at most")
        scene.plot = plot(light, heavy, began)

    scene.checks.append(fair)
    await rig.behave()
    return f"one tenant at {FLOOD_PER_SECOND}/s, nine at 1/s, capacity 50/s, {seconds:.0f} s"


def _log(scene: Scene) -> list[str]:
    return scene.rig.fleet.turn_log.read_text().splitlines()


def _waits(turns: dict[str, Turns], load: Load) -> list[tuple[int, int]]:
    """When each turn began, and how long its message had waited, in milliseconds."""
    found = []
    for id_, one in turns.items():
        sent = load.accepted.get(id_.rpartition(":")[0])
        if sent is not None and one.begun:
            at = min(one.begun.values())
            found.append((at, max(0, at - sent.accepted_at_ms)))
    return found


def _percentile(waits: list[tuple[int, int]], share: float) -> int:
    ordered = sorted(wait for _, wait in waits)
    return ordered[max(0, round(share * len(ordered)) - 1)] if ordered else 0


def plot(light: list[tuple[int, int]], heavy: list[tuple[int, int]], began: int) -> str:
    """p95 of the waits over time, one line for the quiet tenants and one for the flooding one, each on its scale."""
    lines = []
    for name, waits in (("nine quiet tenants", light), ("the flooding one", heavy)):
        buckets: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for at, wait in waits:
            buckets[(at - began) // BUCKET_MS].append((at, wait))
        tops = [_percentile(buckets[n], 0.95) for n in range(max(buckets, default=-1) + 1)]
        most = max(tops, default=0) or 1
        bars = "".join(BARS[round(top / most * (len(BARS) - 1))] for top in tops)
        lines.append(f"{name:20} |{bars}|  top {most / 1000:.2f} s")
    return "\n".join(lines)


async def hold_to_rate(scene: Scene) -> str:
    """F40: a limit a minute, with pools that die."""
    for _ in range(2):
        await asyncio.sleep(scene.random.uniform(2, 5))
        name = scene.random.choice(scene.rig.pools)
        await scene.rig.kill(name)
        scene.rig.start(name)

    def strict(done: Account) -> None:
        calls = sorted(at for turns in done.turns.values() for at in turns.requests)
        most = max((sum(at - WINDOW_MS < one <= at for one in calls) for at in calls), default=0)
        first = sum(one < calls[0] + WINDOW_MS for one in calls) if calls else 0
        scene.notes.append(f"at most {most} calls in any 60 s, {first} in the first")
        scene.require(most <= LIMIT, f"{most} calls in one minute, {LIMIT} at most")
        scene.require(first >= SHARE * LIMIT, f"{first} calls in the first minute of {LIMIT} allowed")

    scene.checks.append(strict)
    return f"{LIMIT} turns a minute allowed, more asked for, 2 pools killed"


async def lose_agent(scene: Scene) -> str:
    """F37: an agent is deleted while messages wait for it."""
    scene.allowed_to_end = ("delivered", "refused")
    await scene.in_flight(3)
    tenant = next(iter(scene.rig.tenants))
    agent = scene.rig.tenants[tenant][0]
    (await scene.rig.admin.delete(f"/v1/agents/{scene.rig.ids[agent]}")).raise_for_status()

    def told(done: Account) -> None:
        refused = {
            id_: events for id_, events in done.events.items() if any(event.state == "refused" for event in events)
        }
        others = [id_ for id_ in refused if scene.load.accepted[id_].agent != agent]
        calls = max((len(done.turns[f"{id_}:1"].requests) for id_ in refused if f"{id_}:1" in done.turns), default=0)
        scene.require(bool(refused), "nothing was refused")
        scene.require(not others, f"refused, and not for the agent that is gone: {others[:3]}")
        scene.require(calls <= 1, f"{calls} calls for one message to an agent that is gone")
        scene.notes.append(f"{len(refused)} refused as its agent is gone, after at most {calls} call each")

    scene.checks.append(told)
    return "an agent is deleted under load"


FAULTS = [
    Fault(
        "F27",
        "one tenant floods",
        flood,
        plan=Plan(tenants=10, agents=100),
        messages=(90, 540),
        per_second=(9, 9),
        delay_seconds=TURN_SECONDS,
        only=tuple(f"chaos-{n}" for n in range(1, 10)),
        quick=False,
        limit_seconds=(110, 300),
    ),
    Fault(
        "F37",
        "an agent is gone",
        lose_agent,
        plan=Plan(tenants=2, agents=8),
        extra_calls=(0, 0),
        quick=False,
    ),
    Fault(
        "F40",
        "rates hold",
        hold_to_rate,
        plan=Plan(tenants=1, agents=12, limits=(("per_minute", LIMIT),)),
        messages=(90, 90),
        per_second=(10, 10),
        delay_seconds=0.2,
        extra_calls=(20, 20),
        quick=False,
        limit_seconds=(150, 200),
    ),
]
