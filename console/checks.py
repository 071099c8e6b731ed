"""What `postroom doctor` looks at: each check answers ok, warn or fail, with what to do."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from redis.exceptions import ResponseError

from console.addresses import without_password
from console.session import Session
from console.times import size_text, span
from workers.broker import keys
from workers.broker.arq import connect_arq
from workers.broker.client import FLOOR, REDIS_AWAY, Durability, close, durability
from workers.broker.rules import Pool
from workers.bus import listing, parking
from workers.bus.admission import STOP_AT
from workers.settings import Settings

CLOCK_WARNING_MS = 1_000
STALE_MS = 12_000
"""A process writes its sign of life every 5 s; one that missed two of them is in trouble."""
SECOND_LOOK_SECONDS = 6.0
ROOM_WARNING = 0.7
PROBE_ID = "doctor-asks-for-a-message-that-nobody-sent"


class Level(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report."""

    name: str
    level: Level
    found: str
    do: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def ok(name: str, found: str) -> Check:
    """Nothing to do."""
    return Check(name, Level.OK, found)


def warn(name: str, found: str, do: str) -> Check:
    """It works, but."""
    return Check(name, Level.WARN, found, do)


def fail(name: str, found: str, do: str) -> Check:
    """It does not work."""
    return Check(name, Level.FAIL, found, do)


async def redis_checks(opened: Session) -> AsyncIterator[Check]:
    """Redis: reachable, new enough, keeping what it is given. Only the first where it cannot be reached."""
    url = opened.settings.required_redis_url()
    try:
        found = await durability(opened.client)
    except REDIS_AWAY as error:
        said = str(error) or type(error).__name__
        yield fail(
            "redis", f"{without_password(url)} cannot be used: {said}", "start it, or correct POSTROOM_REDIS_URL"
        )
        return
    yield _version(found, url)
    yield append_only(found, accepted=opened.settings.accept_loss)
    yield eviction(found, accepted=opened.settings.accept_loss)
    yield memory(found)
    yield replicas(found, opened.settings)
    yield await _scripts(opened)
    yield await _arq(opened.settings)
    yield await _clock(opened)


def _version(found: Durability, url: str) -> Check:
    floor = ".".join(str(part) for part in FLOOR)
    text = f"{found.version_text} at {without_password(url)}"
    if found.version < FLOOR:
        return fail("redis", f"{text}: too old", f"use {floor} or newer (7.2 in production)")
    return ok("redis", text)


def append_only(found: Durability, *, accepted: bool) -> Check:
    """Whether a restart loses messages."""
    if found.append_only is None:
        return warn("append-only file", "Redis does not tell", "make sure that its provider keeps what it confirms")
    if not found.append_only:
        do = "set appendonly yes (and appendfsync everysec)"
        if accepted:
            return warn("append-only file", "off, and POSTROOM_ACCEPT_LOSS allows it: a restart loses messages", do)
        return fail("append-only file", "off: a restart loses every message; services refuse to start", do)
    if found.fsync == "no":
        return warn("append-only file", "on, written when the system likes", "set appendfsync everysec or always")
    how_often = {
        "always": "on, on disk before every answer",
        "everysec": "on, on disk every second: a power cut may cost the last one",
    }
    return ok("append-only file", how_often.get(found.fsync or "", "on; Redis does not tell how often it is on disk"))


def eviction(found: Durability, *, accepted: bool) -> Check:
    """Whether a full Redis drops messages."""
    if found.eviction is None:
        return warn("eviction", "Redis does not tell", "make sure that maxmemory-policy is noeviction")
    if found.eviction != "noeviction":
        level = Level.WARN if accepted else Level.FAIL
        said = f"{found.eviction}: a full Redis drops messages"
        return Check("eviction", level, said, "set maxmemory-policy noeviction")
    return ok("eviction", "noeviction")


def memory(found: Durability) -> Check:
    """Whether there is room."""
    used = size_text(found.used_memory)
    if not found.max_memory:
        return ok("memory", f"{used} used, no ceiling set")
    share = found.used_memory / found.max_memory
    text = f"{used} of {size_text(found.max_memory)} used ({share:.0%})"
    if share >= STOP_AT:
        return fail("memory", f"{text}: nothing is accepted above {STOP_AT:.0%}", "raise maxmemory")
    return warn("memory", text, "raise maxmemory soon") if share >= ROOM_WARNING else ok("memory", text)


def replicas(found: Durability, settings: Settings) -> Check:
    """What a failover would cost, and whether the replicas are there that an acceptance waits for."""
    wanted = settings.wait_replicas
    there = f"{found.replicas} connected"
    if found.replicas < wanted:
        said = f"{there}, and POSTROOM_WAIT_REPLICAS is {wanted}: every publish is answered as not accepted"
        return fail("replicas", said, "start the replicas, or lower POSTROOM_WAIT_REPLICAS")
    if not found.replicas:
        return ok("replicas", "none: accepted means that this one Redis has it")
    if not wanted:
        said = f"{there}, and an acceptance waits for none: a failover may lose what was accepted just before"
        return warn("replicas", said, "set POSTROOM_WAIT_REPLICAS=1 for producers and services")
    if found.min_replicas == 0:
        said = f"{there}, {wanted} confirm each acceptance; a master that is cut off from them goes on delivering"
        return warn("replicas", said, "set min-replicas-to-write 1 on every Redis (deploy/sentinel.conf)")
    said = f"{there}, {wanted} confirm each acceptance: a failover keeps it, where it goes to one that is up to date"
    return ok("replicas", said)


async def _scripts(opened: Session) -> Check:
    """Runs one that changes nothing: it asks for a message nobody sent."""
    context = opened.operator.for_tenant("doctor")
    try:
        await opened.resources.scripts.cancel(context, message_id=PROBE_ID)
    except ResponseError as error:
        return fail("scripts", f"do not run: {error}", "this Redis cannot run Lua as it must; use a plain one")
    except REDIS_AWAY as error:
        return fail("scripts", f"no answer: {type(error).__name__}", "look at Redis' log")
    return ok("scripts", "run")


async def _arq(settings: Settings) -> Check:
    own = settings.arq_redis_url
    url = own.get_secret_value() if own else settings.required_redis_url()
    arq = connect_arq(url)
    try:
        queued = {pool: int(await arq.zcard(keys.queue(pool))) for pool in Pool}
    except REDIS_AWAY as error:
        said = str(error) or type(error).__name__
        return fail("wake-ups", f"arq's Redis cannot be used: {said}", "correct POSTROOM_ARQ_REDIS_URL")
    finally:
        await close(arq)
    where = "their own Redis" if own else "the same Redis"
    return ok("wake-ups", f"{where}; queued: " + ", ".join(f"{pool} {count}" for pool, count in queued.items()))


async def _clock(opened: Session) -> Check:
    before = time.time_ns() // 1_000_000
    redis_ms = await opened.now_ms()
    after = time.time_ns() // 1_000_000
    ahead_ms = 0 if before <= redis_ms <= after else redis_ms - (before + after) // 2
    if abs(ahead_ms) < CLOCK_WARNING_MS:
        return ok("clocks", f"this machine and Redis agree within {max(abs(ahead_ms), after - before, 1)} ms")
    side = "ahead of" if ahead_ms > 0 else "behind"
    said = f"Redis is {span(abs(ahead_ms) / 1000)} {side} this machine"
    return warn("clocks", said, "run NTP on both; Redis' clock decides, absolute times of producers may be off")


async def process_checks(opened: Session) -> AsyncIterator[Check]:
    """Which services live."""
    signs = await _settled_signs(opened)
    now_ms = await opened.now_ms()
    kinds = {name for sign in signs for name in sign["services"]}
    if not signs:
        yield warn("processes", "none lives: messages are kept, and nobody delivers", "run `postroom up`")
    for sign in sorted(signs, key=lambda one: str(one["process"])):
        age_ms = now_ms - int(sign["at_ms"])
        busy = [name for name, ready in sign["services"].items() if not ready]
        text = f"{sign['process']}: {sign['in_flight']} turns now"
        if age_ms > STALE_MS:
            yield warn("process", f"{text}; silent for {span(age_ms / 1000)}", "look at its log; it may hang")
        elif sign.get("letta") not in {None, "closed"}:
            said = "leaves the Letta server alone: its calls failed in a row, and cost nothing meanwhile"
            yield warn(
                "process", f"{text}; {said}", "look at the Letta server; it is asked every 5 s and used again then"
            )
        elif busy:
            yield warn("process", f"{text}; not ready: {', '.join(busy)}", "look at its log; Redis may be away for it")
        else:
            yield ok("process", text)
    if signs and "dispatcher" not in kinds:
        yield warn(
            "processes", "no dispatcher lives: nothing gets into the mailboxes", "run `postroom serve dispatcher`"
        )
    if signs and not any(kind.startswith("pool-") for kind in kinds):
        yield warn("processes", "no pool lives: nothing is delivered", "run `postroom serve pool`")


async def parked_checks(opened: Session) -> AsyncIterator[Check]:
    """Which agents are left alone with their mailboxes."""
    for tenant in await opened.tenants.all_ids(opened.operator):
        context = opened.operator.for_tenant(tenant)
        names = {agent.id: agent.name for agent in await listing.known_agents(context, opened.client)}
        for agent, record in sorted((await parking.parked(context, opened.client)).items()):
            name = names.get(agent, agent)
            do = f"mend it, then `postroom agent unpark {agent} -t {tenant}`"
            yield warn("parked", f"{name} of {tenant}, by {record.by}: {record.why}", do)


async def _settled_signs(opened: Session) -> list[dict[str, Any]]:
    """The signs of life; one that tells of a start is looked at again once it has been renewed."""
    deadline = opened.resources.clock.monotonic() + SECOND_LOOK_SECONDS
    while True:
        signs = [sign async for sign in _signs(opened)]
        all_ready = all(all(sign["services"].values()) for sign in signs)
        if all_ready or opened.resources.clock.monotonic() > deadline:
            return signs
        await asyncio.sleep(0.2)


async def _signs(opened: Session) -> AsyncIterator[dict[str, Any]]:
    async for key in opened.client.scan_iter(match=f"{keys.process()}*", count=1_000):
        raw = await opened.client.get(key)
        if raw is not None:
            sign: dict[str, Any] = json.loads(raw)
            yield sign


def settings_checks(settings: Settings, *, simulated: bool | None) -> list[Check]:
    """What a wrong choice of settings would cost."""
    if settings.log_key.get_secret_value() != "postroom":
        return [ok("log key", "your own")]
    if simulated:
        return [ok("log key", "the default; make it your own before real tenants come")]
    do = "set POSTROOM_LOG_KEY to a secret of your own, the same in all processes"
    return [warn("log key", "the default: who knows it can guess tenants from logs", do)]
