"""`python -m console.sandbox`: a sandbox Letta as a process, for fault tests and demos.

Prints one JSON line with its base URL when it is ready, and stops cleanly on SIGTERM or SIGINT.
"""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from console.sandbox.seed import seed_demo
from console.sandbox.server import SandboxServer
from console.sandbox.world import Mode


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until told to stop."""
    server = SandboxServer(Mode(arguments.mode), host=arguments.host, port=arguments.port, turn_log=arguments.turn_log)
    if arguments.seed_demo:
        seed_demo(server.world)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with server:
        line = {"base_url": server.base_url, "mode": arguments.mode, "sandbox": True}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        await stopped.wait()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m console.sandbox", description="A sandbox Letta server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8299, help="0 takes any free port")
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.JOINS.value)
    parser.add_argument("--turn-log", type=Path, default=None, help="append one JSON line per turn here")
    parser.add_argument("--seed-demo", action="store_true", help="start with a small team of demo agents")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
