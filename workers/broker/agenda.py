"""The agenda: which tenant somebody should look at, and when; and how dispatchers are woken. Hints, never the truth."""

from schemas.context import Context, Operator
from workers.broker import keys
from workers.broker.client import Client

CONTROL_LENGTH = 1_000


async def note(context: Context, client: Client, look_ms: int) -> None:
    """Asks for a look at the tenant at that time (epoch milliseconds), unless an earlier one is planned; 0: none."""
    if look_ms > 0:
        await client.zadd(keys.agenda(), {context.tenant: look_ms}, lt=True)


async def wake_dispatchers(by: Context | Operator, client: Client) -> None:
    """Has every dispatcher look at once which streams it owns: a tenant came, changed or went, or a dispatcher died."""
    about = by.tenant if isinstance(by, Context) else ""
    await client.xadd(keys.control(), {"tenant": about}, maxlen=CONTROL_LENGTH, approximate=True)
