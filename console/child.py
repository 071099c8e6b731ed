"""One service under a parent (console/fleet.py), and for nobody else: `python -m console.child`.

Its standard input is the string that it hangs on. One line on it says what to be; the end of it asks for the end,
because the parent closed it or is gone, however it went: nothing is left running without a parent. Until the line
comes it waits with everything imported, so that it can take a dead one's place at once. It writes one line to its
standard output when it is ready.
"""

import asyncio
import json
import sys

from pydantic import BaseModel, ConfigDict

from console.exits import is_expected, report
from console.running import Ending, PoliteEnding, run_processes, run_service, signals
from console.session import wait_for_addresses
from workers import log, roles
from workers.broker.rules import Pool
from workers.roles import Process


class Orders(BaseModel):
    """What a child is to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    process_id: str
    """Its name in Redis. The parent knows it, and can free what a child of that name held."""
    pools: tuple[Pool, ...] = ()
    """None: a dispatcher."""


async def serve() -> None:
    """Waits for its orders, and follows them to the end.

    Raises:
        ConfigurationError: a setting is wrong, or Redis would lose messages.
    """
    async with signals(PoliteEnding()) as ending:
        lines = await _standard_input()
        first = asyncio.create_task(lines.readline(), name="orders")
        asked = asyncio.create_task(ending.asked.wait(), name="asked")
        await asyncio.wait({first, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not first.done() or not first.result():
            first.cancel()
            return
        orders = Orders.model_validate_json(first.result())
        hanging_on = asyncio.create_task(_until_let_go(lines, ending), name="hanging on")
        await _follow(orders, ending)
        hanging_on.cancel()


async def _follow(orders: Orders, ending: Ending) -> None:
    async def ready() -> None:
        print(json.dumps({"event": "ready"}), flush=True)

    def stopping() -> None:
        process.resources.log.process.info("stopping")

    settings = await wait_for_addresses()
    log.configure(settings)
    process: Process
    if orders.pools:
        process = roles.pools(settings, orders.pools, orders.process_id)
    else:
        process = roles.dispatcher(settings, orders.process_id)
    await run_processes([process], ending, ready=ready, stopping=stopping)


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def _until_let_go(lines: asyncio.StreamReader, ending: Ending) -> None:
    while await lines.readline():
        pass
    ending.ask()


def main() -> None:
    """Runs until it is let go. Expected errors become a sentence and an exit code, as for any command."""
    try:
        run_service(serve())
    except Exception as error:
        if not is_expected(error):
            raise
        sys.exit(report(error, as_json=False))


if __name__ == "__main__":
    main()
