"""What one would use instead, as its own documentation has it: Letta's client in a loop, arq with one job for each
message, a loop over a stream. None of them keeps what Postroom promises; they are the price without the promises.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from arq import Worker, create_pool, func
from arq.connections import ArqRedis, RedisSettings
from arq.typing import WorkerCoroutine
from letta_client import AsyncLetta

from bench.agents import agent_id
from workers.broker.client import Client, close
from workers.broker.client import connect as connect_redis
from workers.turn.letta.transport import connect

Document = dict[str, Any]
Answer = Callable[[Document], Awaitable[Document]]

ARQ_JOBS = 100
ARQ_POLL_SECONDS = 0.01
STREAM, GROUP = "bench:stream", "bench"
BATCH = 100
BLOCK_MS = 1_000


def plain_client(url: str) -> AsyncLetta:
    """letta-client as constructed, but for its retries."""
    return AsyncLetta(base_url=url, api_key="none", max_retries=0)


async def call(client: AsyncLetta, number: int, content: str, *, streams: bool) -> None:
    """One turn, by the call that Postroom's adapter makes on the same server."""
    message: Any = {"role": "user", "content": content}
    if not streams:
        await client.agents.messages.create(agent_id(number), messages=[message])
        return
    events = await client.conversations.messages.create(
        "default", agent_id=agent_id(number), streaming=True, background=False, messages=[message]
    )
    async for _ in events:
        pass


async def calls(client: AsyncLetta, *, in_flight: int, seconds: float, streams: bool) -> tuple[int, float]:
    """A bare loop: so many at once, for so long. How many ended, and in what time."""
    began = time.monotonic()
    over_at = began + seconds
    done = 0

    async def one(number: int) -> None:
        nonlocal done
        while time.monotonic() < over_at:
            await call(client, number, "hello", streams=streams)
            done += 1

    await asyncio.gather(*(one(number) for number in range(in_flight)))
    return done, time.monotonic() - began


async def no_op(_ctx: dict[Any, Any], _content: str) -> None:
    """The job of arq."""


def _arq_settings(url: str) -> RedisSettings:
    return RedisSettings.from_dsn(url)


async def arq_pool(url: str) -> ArqRedis:
    """A producer's client of arq."""
    return await create_pool(_arq_settings(url))


@asynccontextmanager
async def arq_worker(options: Document) -> AsyncIterator[Answer]:
    """A worker of arq. With a `url` its jobs call the stub and it waits for them; without, it empties the queue when
    it is told to.
    """
    client = connect(options["url"]) if "url" in options else None

    async def turn(_ctx: dict[Any, Any], content: str) -> None:
        if client is not None:
            await call(client, 0, content, streams=False)

    def made(*, burst: bool) -> Worker:
        return Worker(
            functions=[func(cast("WorkerCoroutine", turn if client else no_op), name="job")],
            redis_settings=_arq_settings(options["redis_url"]),
            burst=burst,
            max_jobs=ARQ_JOBS,
            poll_delay=float(options.get("poll_seconds", ARQ_POLL_SECONDS)),
            handle_signals=False,
        )

    async def empty(_asked: Document) -> Document:
        one = made(burst=True)
        began = time.monotonic()
        await one.async_run()
        seconds = time.monotonic() - began
        await one.close()
        return {"done": one.jobs_complete, "seconds": seconds}

    if client is None:
        yield empty
        return
    waiting = made(burst=False)
    task = asyncio.create_task(waiting.async_run())
    yield empty
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await waiting.close()
    await client.close()


@asynccontextmanager
async def stream_loop(options: Document) -> AsyncIterator[Answer]:
    """A consumer of a stream. With a `url` it calls the stub for each entry; without, it empties the stream."""
    redis = connect_redis(options["redis_url"])
    await redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)

    async def empty(_asked: Document) -> Document:
        began, done = time.monotonic(), 0
        while some := await _batch(redis, block_ms=None):
            done += len(some)
            await _drop(redis, [id_ for id_, _ in some])
        return {"done": done, "seconds": time.monotonic() - began}

    if "url" in options:
        client = connect(options["url"])
        following = asyncio.create_task(_follow(redis, client))
        yield empty
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await client.close()
    else:
        yield empty
    await close(redis)


async def _follow(redis: Client, client: AsyncLetta) -> None:
    async with asyncio.TaskGroup() as running:
        while True:
            some = await _batch(redis, block_ms=BLOCK_MS)
            for _, fields in some:
                running.create_task(call(client, 0, fields[b"message"].decode(), streams=False))
            if some:
                await _drop(redis, [id_ for id_, _ in some])


async def _batch(redis: Client, *, block_ms: int | None) -> list[tuple[bytes, dict[bytes, bytes]]]:
    answer = await redis.xreadgroup(GROUP, "one", {STREAM: ">"}, count=BATCH, block=block_ms)
    return list(answer[0][1]) if answer else []


async def _drop(redis: Client, ids: list[bytes]) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        pipe.xack(STREAM, GROUP, *ids)
        pipe.xdel(STREAM, *ids)
        await pipe.execute()
