"""The load: messages in sequence to every agent, published again under their ids until Redis confirms them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.rig import Rig
from workers.bus.client import TenantClient
from workers.errors import NotAcceptedError, OverloadedError, PostroomError

AGAIN_SECONDS = 0.2
GIVE_UP_SECONDS = 120.0
MOST = 20_000


@dataclass(frozen=True)
class Sent:
    """One message that was accepted."""

    tenant: str
    agent: str
    number: int
    """Its place in its tenant's sequence."""
    accepted_at_ms: int


@dataclass
class Load:
    """What is sent, and what was accepted."""

    rig: Rig
    prefix: str
    count: int
    """At least so many: a load goes on until the fault is over, however long that takes on this machine."""
    per_second: float
    delay_seconds: float
    options: dict[str, Any] = field(default_factory=dict)
    only: Sequence[str] = ()
    """The tenants that get it; none: all, in turn."""
    text: dict[str, str] = field(default_factory=dict)
    """What to say to an agent instead, by name."""
    accepted: dict[str, Sent] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Never accepted, with why."""
    unconfirmed: int = 0
    """Tries that Redis did not confirm; each was made again."""
    slowest_seconds: float = 0.0
    """The longest that a producer waited for an answer, whichever."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the blow is over: no more than `count` then."""

    async def run(self) -> None:
        tenants = list(self.only) or list(self.rig.tenants)
        await asyncio.gather(*(self._publish(tenant, n, len(tenants)) for n, tenant in enumerate(tenants)))

    async def _publish(self, tenant: str, first: int, step: int) -> None:
        agents = self.rig.tenants[tenant]
        began = time.monotonic()
        async with TenantClient.open(self.rig.url, tenant=tenant, principal="chaos") as client:
            for place, number in enumerate(range(first, MOST, step)):
                ahead = began + number / self.per_second - time.monotonic()
                if ahead > 0:
                    await asyncio.sleep(ahead)
                if number >= self.count and self.over.is_set():
                    return
                await self._one(client, agents[place % len(agents)], number)

    async def _one(self, client: TenantClient, agent: str, number: int) -> None:
        id_ = f"{self.prefix}-{number:05d}"
        text = self.text.get(agent, f"[[say ok]] [[delay {self.delay_seconds:g}]]")
        give_up_at = time.monotonic() + GIVE_UP_SECONDS
        while True:
            asked_at = time.monotonic()
            try:
                receipt = await client.send(agent, f"{id_} {text}", id=id_, **self.options)
            except (NotAcceptedError, OverloadedError) as error:
                self.unconfirmed += 1
                if time.monotonic() > give_up_at:
                    self.refused[id_] = str(error)
                    return
            except PostroomError as error:
                self.refused[id_] = str(error)
                return
            else:
                self.accepted[id_] = Sent(client.context.tenant, agent, number, receipt.accepted_at_ms)
                return
            finally:
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - asked_at)
            await asyncio.sleep(AGAIN_SECONDS)
