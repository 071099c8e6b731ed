"""The composition root: what each kind of process is made of. The one place where parts are wired together.

A role is a list of services that start in order and stop in reverse. `postroom up` runs several in one process;
the Procfile runs one each.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from arq.connections import ArqRedis

from workers import failpoints
from workers.broker.arq import connect_arq
from workers.broker.client import REDIS_AWAY, Durability, close, require_durable
from workers.broker.rules import Pool
from workers.directory.agents import Directory
from workers.directory.removal import Removal
from workers.dispatch.gather import Gatherer
from workers.dispatch.loop import Dispatcher
from workers.dispatch.ownership import Ownership
from workers.heartbeat import Heartbeat
from workers.mailbox.leases import Keeper
from workers.mailbox.ring import Bells
from workers.mailbox.settle import Settler
from workers.mailbox.sweep import Sweeper
from workers.patience import Patience
from workers.pool import PoolService
from workers.resources import Resources, build
from workers.service import Service
from workers.settings import Settings
from workers.tasks import end
from workers.turn.breaker import Breaker
from workers.turn.drain import Hands
from workers.turn.guard import GuardedLetta, Prober, telling
from workers.turn.inflight import AdaptiveLimit
from workers.turn.letta.contract import LettaPort
from workers.turn.letta.rest import RestLetta
from workers.turn.letta.transport import connect
from workers.turn.run import TurnRunner
from workers.turn.slots import ServerSlots, Slots, usable
from workers.watchdog import Watchdog

REDIS_PAUSE_SECONDS = 1.0
STOP_MARGIN_SECONDS = 10.0


@dataclass(slots=True)
class Process:
    """One process: its services, and what to close at the end."""

    resources: Resources
    layers: Sequence[Sequence[Service]]
    """They start layer by layer, and stop in reverse, the services of a layer at once."""
    grace_seconds: float
    closers: Sequence[Callable[[], Awaitable[None]]] = ()
    watchdog: Watchdog = field(default_factory=Watchdog)

    async def start(self) -> None:
        """Waits for Redis, refuses one that loses messages, then starts every service.

        Raises:
            UnsafeRedisError: Redis would lose messages.
            ConfigurationError: Redis is too old.
        """
        await wait_for_redis(self.resources)
        self.watchdog.start()
        for layer in self.layers:
            for service in layer:
                await service.start()

    async def stop(self) -> None:
        """Stops every service within the grace, running turns first, then closes what was opened."""
        for layer in reversed(self.layers):
            await asyncio.gather(*(service.stop(self.grace_seconds) for service in layer))
        self.watchdog.stop()
        for closer in self.closers:
            await closer()
        await self.resources.close()


async def wait_for_redis(resources: Resources) -> None:
    """Waits until Redis answers, then checks how it keeps what it is given.

    Raises:
        UnsafeRedisError: it would lose messages.
        ConfigurationError: it is too old.
    """
    while True:
        try:
            found = await require_durable(resources.client, accept_loss=resources.settings.accept_loss)
        except REDIS_AWAY as error:
            resources.log.process.warning("waiting for redis", error_type=type(error).__name__)
            await resources.clock.sleep(REDIS_PAUSE_SECONDS)
        else:
            _warn_of_replicas(resources, found)
            return


def _warn_of_replicas(resources: Resources, found: Durability) -> None:
    wanted = resources.settings.wait_replicas
    if found.replicas < wanted:
        # They may come any moment: no reason to end.
        said = "too few replicas for POSTROOM_WAIT_REPLICAS: publishes are answered as not accepted"
        resources.log.process.warning(said, count=found.replicas, limit=wanted)


def dispatcher(settings: Settings, process_id: str | None = None, *, letta: LettaPort | None = None) -> Process:
    """Streams to mailboxes, the sweeper, and the removal of tenants that leave. `process_id`: by a parent.

    `letta`: instead of the settings' server.

    Raises:
        ConfigurationError: an address is missing.
    """
    resources = _build(settings, "dispatcher", process_id)
    letta = letta or _letta(settings, resources)
    arq = _arq(settings)
    bells = Bells(arq, resources.scripts, resources.log)
    ownership = Ownership(resources)
    directory = Directory(resources.client, letta, resources.clock)
    sweeper = Sweeper(resources, bells, Gatherer(resources, bells).close)
    loop = Dispatcher(resources, ownership, directory, bells)
    removal = Removal(resources)
    heartbeat = Heartbeat(resources, [ownership, sweeper, loop, removal], lambda: 0)
    closers = (letta.close, lambda: close(arq))
    return Process(resources, [[ownership], [sweeper, loop, removal], [heartbeat]], STOP_MARGIN_SECONDS, closers)


def pools(
    settings: Settings,
    names: Sequence[Pool],
    process_id: str | None = None,
    *,
    letta: LettaPort | None = None,
    fewest_in_flight: int = 1,
) -> Process:
    """Mailboxes to agents. `process_id`: by a parent.

    `letta`: instead of the settings' server. Its limit does not go below `fewest_in_flight`.

    Raises:
        ConfigurationError: an address is missing.
    """
    resources = _build(settings, "-".join(names), process_id)
    breaker = Breaker(resources.clock, telling(resources))
    letta = GuardedLetta(letta or _letta(settings, resources), breaker, resources.clock)
    arq = _arq(settings)
    bells = Bells(arq, resources.scripts, resources.log)
    keeper = Keeper(resources)
    highest = settings.letta_max_in_flight
    limit = AdaptiveLimit(resources.clock, highest=highest, lowest=fewest_in_flight, usable=usable)
    server = ServerSlots(limit, breaker)
    directory = Directory(resources.client, letta, resources.clock)
    hands = Hands(
        resources=resources,
        runner=TurnRunner(resources, letta, directory, keeper, limit),
        keeper=keeper,
        settler=Settler(resources, bells),
        bells=bells,
        sweeper=Sweeper(resources, bells),
        patience=Patience(resources.clock, settings.newer_wait_seconds),
    )
    arq_url = settings.required_arq_url()
    services = [PoolService(resources, arq_url, Slots(pool, settings.turns(pool), server), hands) for pool in names]
    prober = Prober(resources, letta, breaker)
    heartbeat = Heartbeat(resources, [keeper, prober, *services], lambda: server.granted, lambda: str(breaker.circuit))
    # Running turns are let finish: a deploy repeats no call (HAZARDS.md A14).
    grace = settings.turn_deadline_seconds + STOP_MARGIN_SECONDS
    closers = (letta.close, lambda: close(arq))
    return Process(resources, [[keeper, prober], services, [heartbeat]], grace, closers)


async def run_until(process: Process, ended: asyncio.Event) -> None:
    """Runs a process until the event is set; stops it whatever happens."""
    starting = asyncio.create_task(process.start(), name="start")
    ending = asyncio.create_task(ended.wait(), name="ended")
    try:
        # The end may be asked for while the start still waits for Redis.
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await ending
    finally:
        await end(starting, ending)
        await process.stop()


def _build(settings: Settings, role: str, process_id: str | None) -> Resources:
    point = failpoints.arm(os.environ)
    resources = build(settings, role, process_id)
    if point is not None:
        resources.log.process.warning("a fail-point is set: this process will break itself")
    return resources


def _letta(settings: Settings, resources: Resources) -> LettaPort:
    key = settings.letta_api_key
    client = connect(
        settings.required_letta_base_url(),
        api_key=key.get_secret_value() if key else None,
        allow_insecure=settings.letta_allow_insecure,
    )
    return RestLetta(client, resources.clock)


def _arq(settings: Settings) -> ArqRedis:
    return connect_arq(settings.required_arq_url())
