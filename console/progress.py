"""Watching a message to many come to its end: a bar with counts per state and the time that is left."""

import asyncio
from collections.abc import Mapping

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from console.exits import Code
from console.output import err
from schemas.delivery import State
from schemas.ids import MessageId
from schemas.receipt import Receipt
from workers.bus.client import TenantClient
from workers.errors import DeadlineError, RedisUnavailableError

LOOK_SECONDS = 0.5


async def watch(client: TenantClient, message_id: MessageId, *, within: float | None) -> Receipt:
    """The receipt once it is final, with a bar on a terminal meanwhile.

    Raises:
        DeadlineError: it is not final within `within` seconds; it goes on.
        NotFoundError: no such message in this tenant.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    loop = asyncio.get_running_loop()
    over_at = loop.time() + within if within is not None else None
    with bar:
        task = bar.add_task("delivering", total=None, counts="")
        while True:
            receipt = await _look(client, message_id)
            if receipt is not None:
                done = receipt.recipients - receipt.open
                said = f"paused  {counts(receipt.ends)}" if receipt.paused_at_ms else counts(receipt.ends)
                bar.update(task, total=receipt.recipients or None, completed=done, counts=said)
                if receipt.is_final:
                    return receipt
            if over_at is not None and loop.time() > over_at:
                raise DeadlineError(
                    f"message {message_id} has not come to its end within {within:g} s; it goes on: "
                    f"`postroom bulk show {message_id}` tells more"
                )
            await asyncio.sleep(LOOK_SECONDS)


async def _look(client: TenantClient, message_id: MessageId) -> Receipt | None:
    try:
        return await client.bulk.show(message_id)
    except RedisUnavailableError:
        return None


def counts(ends: Mapping[State, int]) -> str:
    """`4,991 delivered, 9 dead`."""
    return ", ".join(f"{number:,} {state}" for state, number in ends.items() if number)


def code_of(receipt: Receipt) -> Code:
    """What a command that waited for the whole ends with."""
    if receipt.recipients and receipt.ends.get(State.DELIVERED, 0) == receipt.recipients:
        return Code.OK
    return Code.PARTIAL if receipt.ends.get(State.DELIVERED) else Code.NOT_DELIVERED
