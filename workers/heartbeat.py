"""A process's sign of life, every 2 s, for 15 s: who it is, what it does, whether it is ready."""

import json
import os
from collections.abc import Callable, Sequence

from workers import version
from workers.broker import keys
from workers.resources import Resources
from workers.service import Service

BEAT_SECONDS = 2.0
LIFE_MS = 15_000


class Heartbeat(Service):
    """Tells Redis of this process."""

    name = "heartbeat"
    every_seconds = BEAT_SECONDS

    def __init__(
        self,
        resources: Resources,
        services: Sequence[Service],
        in_flight: Callable[[], int],
        letta: Callable[[], str | None] = lambda: None,
    ) -> None:
        super().__init__(resources)
        self._services = services
        self._in_flight = in_flight
        self._letta = letta

    async def step(self) -> None:
        sign = {
            "process": self.resources.process_id,
            "version": version.own(),
            "pid": os.getpid(),
            "at_ms": self.resources.clock.now_ms(),
            "in_flight": self._in_flight(),
            # How the Letta server is used: closed, open or trying, as of a breaker; None where it is not.
            "letta": self._letta(),
            "services": {service.name: service.ready for service in self._services},
        }
        key = keys.process(self.resources.process_id)
        await self.resources.client.set(key, json.dumps(sign), px=LIFE_MS)

    async def finish(self) -> None:
        await self.resources.client.delete(keys.process(self.resources.process_id))
