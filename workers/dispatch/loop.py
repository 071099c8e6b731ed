"""The dispatcher: reads the streams it owns and hands each batch to its tenant's stream.

No consumer group: one dispatcher owns a stream, and an entry leaves it in the script that moves it, so what is
still there, from the oldest on, is exactly what is to be done, after any crash (docs/decisions/0002).
"""

import asyncio
from collections.abc import Mapping

from redis.exceptions import ResponseError

from schemas.context import service_context
from schemas.ids import TenantId
from workers.broker import keys
from workers.broker.client import BLOCK_SECONDS
from workers.directory.agents import Directory
from workers.dispatch.carry import Carrier
from workers.dispatch.ownership import Ownership
from workers.dispatch.stream import TenantStream
from workers.mailbox.ring import Bells
from workers.resources import Resources
from workers.service import Service

BATCH = 128
ODD_SECONDS = 30.0
"""How long a stream rests that is none."""
PATIENCE_SECONDS = 0.05
"""How long all tenants wait for the slowest; it goes on by itself after that."""


class Dispatcher(Service):
    """One dispatcher; any number may run."""

    name = "dispatcher"

    def __init__(self, resources: Resources, ownership: Ownership, directory: Directory, bells: Bells) -> None:
        super().__init__(resources)
        self._ownership = ownership
        self._directory = directory
        self._carrier = Carrier(resources, bells)
        self._streams: dict[TenantId, TenantStream] = {}
        self._control = "0-0"

    async def prepare(self) -> None:
        newest = await self.resources.client.xrevrange(keys.control(), count=1)
        self._control = newest[0][0].decode() if newest else "0-0"
        await self._ownership.refresh()

    async def step(self) -> None:
        await self._keep_to_what_is_owned()
        readable = {keys.of(stream.context).tasks: stream for stream in self._streams.values() if stream.readable}
        read_from = {**{name: stream.cursor for name, stream in readable.items()}, keys.control(): self._control}
        try:
            answer = await self.unless_stopping(
                self.resources.client.xread(read_from, count=BATCH, block=self._patience_ms(len(readable)))
            )
        except ResponseError:
            if not await self._rest_what_is_no_stream(readable):
                raise
            return
        for name, entries in answer or ():
            if name.decode() == keys.control():
                self._control = entries[-1][0].decode()
                await self._ownership.refresh()
            else:
                readable[name.decode()].begin(entries)
        working = [stream.working for stream in self._streams.values() if stream.working is not None]
        if working:
            await asyncio.wait(working, timeout=PATIENCE_SECONDS)

    async def finish(self) -> None:
        await asyncio.gather(*(stream.close() for stream in self._streams.values()))

    async def _keep_to_what_is_owned(self) -> None:
        for tenant, stream in list(self._streams.items()):
            if stream.lost:
                self._ownership.lose(tenant)
        self._ownership.offered = {tenant for tenant, stream in self._streams.items() if stream.has_newer}
        owned = set(self._ownership.readable)
        for tenant in self._streams.keys() - owned:
            await self._streams.pop(tenant).close()
        for tenant in owned - self._streams.keys():
            context = service_context(tenant, self.name)
            self._streams[tenant] = TenantStream(context, self.resources, self._directory, self._carrier)

    async def _rest_what_is_no_stream(self, readable: Mapping[str, TenantStream]) -> bool:
        """Redis reads none of several where one is no stream: a hand in one tenant must not stop the others."""
        async with self.resources.client.pipeline(transaction=False) as pipe:
            for name in readable:
                pipe.type(name)
            kinds = await pipe.execute()
        odd = [one for one, kind in zip(readable.values(), kinds, strict=True) if kind not in {b"stream", b"none"}]
        for stream in odd:
            self.resources.log.of(stream.context).warning("the key of the tenant's stream is of another type")
            stream.rest(ODD_SECONDS)
        return bool(odd)

    def _patience_ms(self, reading: int) -> int:
        """A blocked read does not see the streams it was not given: come back early while some are left out."""
        if reading == len(self._streams):
            return int(BLOCK_SECONDS * 1000)
        rests = [stream.rests_for or PATIENCE_SECONDS for stream in self._streams.values() if not stream.readable]
        return max(1, int(min(BLOCK_SECONDS, *rests) * 1000))
