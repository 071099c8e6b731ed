"""What is measured, each in a process of its own, started by the arena.

A child connects to the arena, tells its process id, then, when it is ready, what there is to know of it. It answers
each line of JSON with one, and ends with the connection: when the bench is killed, so are they.
"""

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from bench import peers
from bench.agents import NoLetta
from bench.stub import Stub
from console.running import run_service
from workers import log, roles
from workers.broker.rules import Pool
from workers.roles import Process
from workers.settings import Settings, load
from workers.turn.letta.transport import connect

Document = dict[str, Any]
Answer = Callable[[Document], Awaitable[Document]]
Role = Callable[[Document], "AsyncRole"]
AsyncRole = Any

SLOTS_SPARE = 20
"""Postroom keeps one slot in so many free for tenants that hold none (workers/turn/slots.py)."""


async def nothing(_asked: Document) -> Document:
    """For a child that only runs."""
    return {}


def settings_of(options: Document) -> Settings:
    """As the services have them by default, but for the numbers that a trial sets."""
    given = {name: options[name] for name in ("redis_url", "letta_base_url") if name in options}
    slots = in_flight_slots(int(options.get("in_flight", 64)))
    return load(**given, log_level="error", standard_turns=slots, letta_max_in_flight=2 * slots)


def in_flight_slots(in_flight: int) -> int:
    """How many slots a pool needs, so that one tenant alone gets so many."""
    return in_flight + max(1, -(-in_flight // (SLOTS_SPARE - 1)))


@asynccontextmanager
async def _running(process: Process) -> AsyncIterator[tuple[Document, Answer]]:
    await process.start()
    try:
        yield {}, nothing
    finally:
        # What runs has been counted by then.
        process.grace_seconds = 1.0
        await process.stop()


def dispatcher(options: Document) -> AsyncRole:
    """A dispatcher, and with it a sweeper."""
    settings = settings_of(options)
    log.configure(settings)
    return _running(roles.dispatcher(settings, letta=NoLetta(int(options["agents"]))))


def worker(options: Document) -> AsyncRole:
    """The three pools in one process: against the stub, or against nothing at all."""
    settings = settings_of(options)
    log.configure(settings)
    letta = None
    if settings.letta_base_url is None:
        letta = NoLetta(int(options["agents"]), turn_seconds=float(options.get("turn_seconds", 0)))
    # At its highest from the start: the peers are told how many in flight, too.
    fewest = 1 if options.get("adapts") else settings.letta_max_in_flight
    return _running(roles.pools(settings, list(Pool), letta=letta, fewest_in_flight=fewest))


@asynccontextmanager
async def stub(options: Document) -> AsyncIterator[tuple[Document, Answer]]:
    """A stub of a Letta server; answers with what it has seen since it was last asked."""
    server = Stub(
        delay_seconds=float(options.get("delay_seconds", 0)),
        streams=bool(options.get("streams")),
        agents=int(options["agents"]),
    )
    url = await server.start()

    async def seen(asked: Document) -> Document:
        server.delay_seconds = float(asked.get("delay_seconds", server.delay_seconds))
        said = {"requests": server.requests, "waits": server.waits}
        server.requests, server.waits = 0, []
        return said

    yield {"url": url}, seen
    await server.stop()


@asynccontextmanager
async def bare(options: Document) -> AsyncIterator[tuple[Document, Answer]]:
    """Letta's own client in a bare loop: as constructed, or on our transport."""
    plain = options["transport"] == "httpx"
    client = peers.plain_client(options["url"]) if plain else connect(options["url"])

    async def loop(asked: Document) -> Document:
        done, seconds = await peers.calls(
            client, in_flight=int(asked["in_flight"]), seconds=float(asked["seconds"]), streams=bool(options["streams"])
        )
        return {"done": done, "seconds": seconds}

    yield {}, loop
    await client.close()


@asynccontextmanager
async def arq(options: Document) -> AsyncIterator[tuple[Document, Answer]]:
    """arq, one job for each message."""
    async with peers.arq_worker(options) as burst:
        yield {}, burst


@asynccontextmanager
async def stream(options: Document) -> AsyncIterator[tuple[Document, Answer]]:
    """A loop over a stream's consumer group."""
    async with peers.stream_loop(options) as drained:
        yield {}, drained


ROLES: Mapping[str, Role] = {
    "dispatcher": dispatcher,
    "worker": worker,
    "stub": stub,
    "bare": bare,
    "arq": arq,
    "stream": stream,
}


async def _serve(address: str, number: int, role: str, options: Document) -> None:
    reader, writer = await asyncio.open_unix_connection(address)

    def say(document: Document) -> None:
        writer.write(json.dumps(document).encode() + b"\n")

    say({"number": number, "pid": os.getpid()})
    async with ROLES[role](options) as (ready, answer):
        say(ready)
        while line := await reader.readline():
            say(await answer(json.loads(line)))
    writer.close()


def _run(told: str) -> None:
    """One child, to its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    logging.disable(logging.WARNING)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(ConnectionError):
        # The bench was killed: there is nobody left to tell.
        run_service(_serve(**json.loads(told)))


def main() -> None:
    """With an argument, one child. Without, a nursery: a child for each line, forked, so that none has to import all
    of it again.
    """
    if len(sys.argv) > 1:
        _run(sys.argv[1])
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if os.fork() == 0:
            _run(line)
            os._exit(0)


if __name__ == "__main__":
    main()
