"""`postroom up` and `postroom serve`: the services in the foreground, on what is embedded or given."""

import asyncio
import json
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from console.addresses import this_command, without_password
from console.local import Home
from console.parts import Parts, embedded_parts
from console.running import Ending, run_processes, signals
from console.session import open_letta, principal, wait_for_addresses
from schemas.context import Operator
from workers import log, roles
from workers import settings as settings_module
from workers.broker import keys
from workers.broker.client import REDIS_AWAY, Client, close, connect
from workers.broker.rules import Pool
from workers.errors import LettaUnavailableError
from workers.resources import build
from workers.roles import Process
from workers.settings import Settings

LEAVING_SECONDS = 4.0
"""How long the embedded Redis waits for the other services at the end: honcho kills after 5 s."""
ASK_LETTA_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Voice:
    """What a service says to the person in front of it, besides its logs: on stderr, in lines or as JSON."""

    as_json: bool

    def document(self, document: dict[str, object]) -> None:
        """One thing that happened, for machines only."""
        if self.as_json:
            self.facts(document)

    def facts(self, document: dict[str, object], *lines: str | Text) -> None:
        """One thing that happened."""
        if self.as_json:
            print(json.dumps(document), flush=True)
            return
        console = Console(stderr=True, highlight=False)
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)


async def up(*, as_json: bool) -> None:
    """Everything in one process, until a signal.

    Raises:
        ConfigurationError: a setting is wrong, Redis would lose messages, or there is none to start.
        RefusedError: another `up` runs here.
    """
    voice = Voice(as_json)
    async with signals() as ending:
        settings = settings_module.load()
        log.configure(settings)
        async with embedded_parts(settings, Operator(principal())) as parts:
            processes = [roles.dispatcher(parts.settings), roles.pools(parts.settings, parts.settings.pools)]

            async def ready() -> None:
                simulated = await _is_simulated(parts)
                voice.facts(_document(parts, simulated=simulated), *_greeting(parts, simulated=simulated))

            async def in_a_hurry() -> None:
                if parts.redis is not None:
                    await parts.redis.stop()

            await run_processes(
                processes, ending, ready=ready, stopping=lambda: say_stopping(voice), in_a_hurry=in_a_hurry
            )
    voice.facts({"event": "stopped"}, Text("stopped; what was accepted is kept", style="dim"))


async def serve_dispatcher(*, as_json: bool) -> None:
    """One dispatcher process.

    Raises:
        ConfigurationError: a setting is wrong, or Redis would lose messages.
    """
    settings = await _service_settings()
    await _serve([roles.dispatcher(settings)], Voice(as_json), "dispatcher")


async def serve_pools(pools: list[Pool], *, as_json: bool) -> None:
    """One process with the named pools.

    Raises:
        ConfigurationError: a setting is wrong, or Redis would lose messages.
    """
    settings = await _service_settings()
    names = pools or list(settings.pools)
    await _serve([roles.pools(settings, names)], Voice(as_json), "pool " + " ".join(names))


async def serve_local(*, as_json: bool) -> None:
    """Only the embedded parts, for the Procfile. Goes last, so that the others can finish.

    Raises:
        ConfigurationError: there is no Redis to start, or it does not start.
        RefusedError: another `up` runs here.
    """
    voice = Voice(as_json)
    async with signals() as ending:
        settings = settings_module.load()
        log.configure(settings)
        async with embedded_parts(settings, Operator(principal())) as parts:
            if parts.redis is None and parts.sandbox is None:
                line = "POSTROOM_REDIS_URL and LETTA_BASE_URL are set: nothing to start here; idle"
                voice.facts({"event": "idle"}, line)
            else:
                simulated = parts.sandbox is not None
                voice.facts(_document(parts, simulated=simulated), *_addresses(parts, simulated=simulated))
            await ending.asked.wait()
            if parts.redis is not None:
                await _until_the_others_left(parts, ending)


async def _serve(processes: list[Process], voice: Voice, what: str) -> None:
    async with signals() as ending:

        async def ready() -> None:
            voice.facts({"event": "ready", "service": what}, f"{what}: ready")

        await run_processes(processes, ending, ready=ready, stopping=lambda: say_stopping(voice))


async def _service_settings() -> Settings:
    settings = await wait_for_addresses()
    log.configure(settings)
    return settings


async def _until_the_others_left(parts: Parts, ending: Ending) -> None:
    client = connect(parts.settings.required_redis_url())
    try:
        async with asyncio.timeout(LEAVING_SECONDS):
            while not ending.insisted.is_set() and await _anybody(client):  # noqa: ASYNC110  # others' processes
                await asyncio.sleep(0.1)
    except REDIS_AWAY:
        # Time is up, or Redis is gone: TimeoutError is among them.
        return
    finally:
        await close(client)


async def _anybody(client: Client) -> bool:
    async for _ in client.scan_iter(match=f"{keys.process()}*", count=1_000):
        return True
    return False


async def _is_simulated(parts: Parts) -> bool | None:
    """Whether the agents are; None where the server cannot be asked now."""
    if parts.sandbox is not None:
        return True
    resources = build(parts.settings, "cli")
    letta = open_letta(parts.settings, resources)
    try:
        async with asyncio.timeout(ASK_LETTA_SECONDS):
            return (await letta.abilities()).simulated
    except (LettaUnavailableError, TimeoutError):
        return None
    finally:
        await letta.close()
        await resources.close()


def say_stopping(voice: Voice) -> None:
    """What a service says when the end was asked for."""
    line = Text("\nstopping: running turns finish first; Ctrl-C again ends at once", style="dim")
    voice.facts({"event": "stopping"}, line)


def _document(parts: Parts, *, simulated: bool | None) -> dict[str, object]:
    return {
        "event": "ready",
        "redis_url": without_password(parts.settings.required_redis_url()),
        "redis_embedded": parts.redis is not None,
        "letta_base_url": parts.settings.required_letta_base_url(),
        "letta_embedded": parts.sandbox is not None,
        "simulated": simulated,
    }


def _addresses(parts: Parts, *, simulated: bool | None) -> list[str | Text]:
    redis, letta = without_password(parts.settings.required_redis_url()), parts.settings.required_letta_base_url()
    kept = f"private, kept in {Home(parts.settings.home).redis_directory}" if parts.redis else "given"
    lines: list[str | Text] = [f"  Redis   {redis}  ({kept})", f"  Letta   {letta}"]
    if simulated is None:
        lines.append(Text("          cannot be reached yet; messages wait until it can", style="yellow"))
    if simulated:
        said = "The agents are SIMULATED: a sandbox Letta on this machine, no language model."
        lines += ["", Text(f"  {said}", style="bold yellow")]
        lines.append(Text("  Set LETTA_BASE_URL (and LETTA_API_KEY) to use your own.", style="dim"))
    return lines


def _greeting(parts: Parts, *, simulated: bool | None) -> list[str | Text]:
    command = this_command()
    tenant, agent = ("acme", "acme-researcher") if parts.sandbox else ("TENANT", "AGENT")
    lines: list[str | Text] = [
        Text("\nPostroom is up.", style="bold green"),
        *_addresses(parts, simulated=simulated),
        "",
    ]
    lines.append(Text("  Try, in another terminal in this folder:", style="dim"))
    if not parts.sandbox:
        lines.append(f"    {command} tenant create TENANT      and tag its agents tenant:TENANT")
    lines += [
        f'    {command} send {agent} "Topic: tea" -t {tenant} --wait',
        f"    {command} get messages -t {tenant}",
        f"    {command} tenant show {tenant}",
        f"    {command} doctor",
        Text("  Ctrl-C stops.\n", style="dim"),
    ]
    return lines
