"""The agenda: which tenant somebody should look at, and when. A hint for the sweepers, never the truth."""

from schemas.context import Context
from workers.broker import keys
from workers.broker.client import Client


async def note(context: Context, client: Client, look_ms: int) -> None:
    """Asks for a look at the tenant at that time (epoch milliseconds), unless an earlier one is planned; 0: none."""
    if look_ms > 0:
        await client.zadd(keys.agenda(), {context.tenant: look_ms}, lt=True)
