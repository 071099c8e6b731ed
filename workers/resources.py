"""What every service of a process shares, in one frozen object. No Letta in it: the port is an argument."""

import random
from dataclasses import dataclass

from workers.broker.client import Client, close, connect
from workers.broker.scripts import Scripts
from workers.clock import Clock, SystemClock
from workers.ids import new_process_id
from workers.log import Log
from workers.settings import Settings
from workers.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Resources:
    """Built once by the composition root, handed down, never a global."""

    settings: Settings
    client: Client
    scripts: Scripts
    clock: Clock
    random: random.Random
    log: Log
    telemetry: Telemetry
    process_id: str

    async def close(self) -> None:
        """Closes what this object opened."""
        self.telemetry.close()
        await close(self.client)


def build(settings: Settings, role: str, process_id: str | None = None) -> Resources:
    """Opens the resources of one process. `process_id`: where a parent has given it one.

    Raises:
        ConfigurationError: there is no Redis URL.
    """
    client = connect(settings.required_redis_url())
    log = Log(settings, role=role)
    return Resources(
        settings=settings,
        client=client,
        scripts=Scripts(client, settings.rules(), wait=settings.wait()),
        clock=SystemClock(),
        # Jitter only: no secret and no id comes from it.
        random=random.Random(),  # noqa: S311
        log=log,
        telemetry=Telemetry(log.opaque, role),
        process_id=process_id or new_process_id(role),
    )
