"""A message to 10,000 agents: how soon it is accepted, its recipients are taken down, and every delivery is made."""

import time
from collections import defaultdict

from bench.agents import TENANT, agent_id
from bench.arena import CONTENT, Arena
from bench.measure import ROUNDS, Aim, Row, figure, tell
from bench.peers import arq_pool
from schemas.address import SelectorAddress
from workers.broker import keys
from workers.bus.client import TenantClient

TRIAL = "bulk send to 10,000"
RECIPIENTS = 10_000
ACCEPTED, TAKEN, MADE, ARQ = "accepted", "recipients taken down", "every delivery made", "arq: 10,000 jobs enqueued"
AIMS: dict[str, Aim] = {TAKEN: ("<=", 1.0)}


async def run(arena: Arena) -> list[Row]:
    """With the list of agents known, as it is for a tenant that is in use; no worker runs."""
    samples: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        for contender in (_postroom, _arq):
            for what, seconds in (await contender(arena)).items():
                samples[what].append(seconds)
                tell(f"{TRIAL}: {what}: {seconds:.3g} s ({number + 1} of {ROUNDS})")
    return [figure(TRIAL, what, "s", found, AIMS.get(what)) for what, found in samples.items()]


async def _postroom(arena: Arena) -> dict[str, float]:
    everybody = SelectorAddress(name="*", at_most=RECIPIENTS)
    async with (
        arena.round(agents=RECIPIENTS) as one,
        TenantClient.open(arena.url, tenant=TENANT, principal="bench", operator=True) as client,
    ):
        await one.start("dispatcher")
        await client.send(agent_id(0), CONTENT)
        await arena.until("waiting", 1)
        began = time.monotonic()
        await client.send(everybody, CONTENT)
        accepted = time.monotonic()
        while not await arena.client.exists(keys.of(arena.context).bulks):
            pass
        taken = time.monotonic()
        made = await arena.until("waiting", RECIPIENTS + 1)
    return {ACCEPTED: accepted - began, TAKEN: taken - began, MADE: made - began}


async def _arq(arena: Arena) -> dict[str, float]:
    async with arena.round():
        pool = await arq_pool(arena.url)
        began = time.monotonic()
        for _ in range(RECIPIENTS // 10):
            await pool.enqueue_job("job", CONTENT)
        seconds = 10 * (time.monotonic() - began)
        await pool.aclose()
    return {f"{ARQ} (a tenth, ten times)": seconds}
