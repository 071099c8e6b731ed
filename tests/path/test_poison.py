"""A message that takes its worker's process down each time, on real processes (FAULTS.md F22)."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from schemas.context import Operator
from schemas.delivery import Cause, State
from schemas.tenant import Limits
from tests.conftest import REAL
from tests.support.fleet import Fleet, fleet
from tests.support.redis_server import RedisServer
from tests.support.town import all_final
from workers.broker import keys
from workers.broker.client import close, connect
from workers.bus.client import TenantClient
from workers.directory.tenants import Tenants

pytestmark = pytest.mark.processes

POISON = "[[poison]]"
ENDED_BY_POISON = 70
BEHIND_WITHIN_SECONDS = 90
WORKER = f"""
import os
import httpx
send = httpx.AsyncClient.send
async def send_or_die(self, request, **more):
    if {POISON.encode()!r} in request.content:
        os._exit({ENDED_BY_POISON})
    return await send(self, request, **more)
httpx.AsyncClient.send = send_or_die
from console.main import main
main()
"""
"""`postroom`, in a process whose http library dies of one kind of request, as one with a bug in native code would."""


class Keeper:
    """Starts the pool again whenever it is down, as a process manager does."""

    def __init__(self, running: Fleet) -> None:
        self._running = running
        self.ends: list[int] = []

    def start(self) -> subprocess.Popen[bytes]:
        with (self._running.folder / "pool.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER, "serve", "pool", "express", "standard", "bulk"],
                env=self._running.environment,
                stdout=log,
                stderr=log,
            )
        self._running.processes["pool"] = process
        return process

    async def keep(self) -> None:
        process = self.start()
        while True:
            code = process.poll()
            if code is not None:
                self.ends.append(code)
                process = self.start()
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.keep())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    server = RedisServer(next(iter(REAL.values()))).start()
    with fleet(server, tmp_path) as started:
        started.start_letta()
        started.start("dispatcher", "serve", "dispatcher")
        yield started
    server.stop()


async def test_poison_takes_three_processes_at_most_and_nothing_else_with_it(running: Fleet) -> None:
    """Then it is a dead letter with its reason and attempts; what was before, beside and behind it is delivered once,
    of its own tenant and of another one, whose turns its workers had in their hands as well.
    """
    client = connect(running.server.url)
    for tenant in ("acme", "globex"):
        await Tenants(client).create(Operator("test"), tenant, Limits(), now_ms=1)
    url, keeper = running.server.url, Keeper(running)
    async with (
        TenantClient.open(url, tenant="acme") as acme,
        TenantClient.open(url, tenant="globex") as globex,
        keeper.keeping(),
    ):
        first = await acme.send("acme-support", "[[say up]]")
        receipts = await all_final(acme, [first.message_id], within=30)
        beside = await send_beside(acme, "acme", range(20))
        began = time.monotonic()
        poison = await acme.send("acme-writer", f"{POISON} é")
        elsewhere = await send_beside(globex, "globex", range(40))
        beside += await send_beside(acme, "acme", range(20, 40))
        behind = [(await acme.send("acme-writer", f"[[say behind {n}]]")).message_id for n in range(10)]
        receipts += await all_final(acme, behind, within=BEHIND_WITHIN_SECONDS)
        took = time.monotonic() - began
        receipts += await all_final(acme, beside, within=BEHIND_WITHIN_SECONDS)
        receipts += await all_final(globex, elsewhere, within=BEHIND_WITHIN_SECONDS)
        dead = await acme.wait(poison.message_id, within=5)

    names = keys.TenantKeys("acme")
    [(_, letter)] = await client.xrange(names.dead)
    envelope = await client.hget(names.message(poison.message_id), "envelope")
    await close(client)
    assert keeper.ends == [ENDED_BY_POISON] * 3
    assert (dead.state, dead.cause) == (State.DEAD, Cause.POISON)
    assert letter[b"delivery"].decode() == f"{poison.message_id}:1"
    assert json.loads(envelope)["content"] == f"{POISON} é"
    assert {one.state for one in receipts} == {State.DELIVERED}
    assert took < BEHIND_WITHIN_SECONDS
    said = [turn["content_head"] for turn in running.turns()]
    assert len(said) == len(set(said)) == len(receipts)


async def send_beside(client: TenantClient, tenant: str, numbers: range) -> list[str]:
    """Messages that are in flight for a while, to the agents that have no poison in their mailboxes."""
    roles = ("researcher", "editor", "support")
    return [
        (await client.send(f"{tenant}-{roles[n % 3]}", f"[[delay 0.4]] [[say {tenant} {n}]]")).message_id
        for n in numbers
    ]
