"""The embedded parts: a private Redis and the sandbox Letta, each only where no address is given."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from uuid import NAMESPACE_DNS, UUID, uuid5

from console.embedded import EmbeddedRedis
from console.local import Home, here
from console.sandbox.seed import DEMO_TENANTS, seed_demo
from console.sandbox.server import SandboxServer
from console.sandbox.world import World
from schemas.context import Operator
from schemas.tenant import Limits
from workers import settings as settings_module
from workers.broker.client import close, connect, require_durable
from workers.clock import SystemClock
from workers.directory.tenants import Tenants
from workers.errors import RefusedError
from workers.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """What runs, and the settings that point at it."""

    settings: Settings
    redis: EmbeddedRedis | None
    sandbox: SandboxServer | None


@asynccontextmanager
async def embedded_parts(settings: Settings, operator: Operator) -> AsyncIterator[Parts]:
    """Starts what is not given, tells the other commands where it is, and stops it at the end: Redis last.

    Raises:
        ConfigurationError: there is no Redis to start, or it does not start.
        RefusedError: another `up` runs here.
    """
    home = Home(settings.home)
    async with AsyncExitStack() as stack:
        stack.enter_context(home.occupied())
        redis = sandbox = None
        if settings.redis_url is None:
            redis = EmbeddedRedis(home.redis_directory)
            stack.push_async_callback(redis.stop)
            settings = _with(settings, redis_url=await redis.start())
        if settings.letta_base_url is None:
            sandbox = await stack.enter_async_context(SandboxServer())
            seed_with_lasting_ids(sandbox.world)
            # Whatever key there is, it is another server's.
            settings = _with(settings, letta_base_url=sandbox.base_url, letta_api_key=None)
            await register_demo_tenants(settings, operator)
        home.write(here(redis_url=redis.url if redis else None, letta_base_url=sandbox.base_url if sandbox else None))
        yield Parts(settings, redis, sandbox)


def _with(settings: Settings, **found: object) -> Settings:
    known = {name: value for name in ("redis_url", "letta_base_url") if (value := getattr(settings, name)) is not None}
    return settings_module.load(**{**settings.model_dump(), **known, **found})


def seed_with_lasting_ids(world: World) -> None:
    """The demo agents under ids that are the same at every start, as a real server's are: what waits in a mailbox
    from the last time finds its agent again.
    """
    for agent in seed_demo(world):
        del world.agents[agent.id]
        agent.id = f"agent-{_uuid4_of(agent.name)}"
        world.agents[agent.id] = agent


def _uuid4_of(name: str) -> UUID:
    # Letta refuses ids that are not uuids of version 4.
    return UUID(bytes=uuid5(NAMESPACE_DNS, f"{name}.sandbox.postroom").bytes, version=4)


async def register_demo_tenants(settings: Settings, operator: Operator) -> None:
    """The tenants whose agents the sandbox has, where they are not there yet.

    Raises:
        UnsafeRedisError: Redis would lose them.
    """
    client = connect(settings.required_redis_url())
    try:
        await require_durable(client, accept_loss=settings.accept_loss)
        for tenant in DEMO_TENANTS:
            try:
                await Tenants(client).create(operator, tenant, Limits(), now_ms=SystemClock().now_ms())
            except RefusedError:
                # There already, with limits that somebody may have chosen.
                await asyncio.sleep(0)
    finally:
        await close(client)
