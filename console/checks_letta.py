"""What `postroom doctor` asks the Letta server, and what its answers mean for the promises."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from console.checks import Check, fail, ok, warn
from console.session import Session, open_letta
from schemas.agent import tenant_tag
from schemas.context import Context
from workers.errors import ConfigurationError, LettaUnavailableError
from workers.turn.letta.contract import Abilities, LettaPort


@dataclass(slots=True)
class LettaChecks:
    """Letta: reachable, what it can do, and what that means."""

    opened: Session
    abilities: Abilities | None = None

    async def run(self) -> AsyncIterator[Check]:
        """Every check; only the first where it cannot be reached."""
        settings = self.opened.settings
        if settings.letta_base_url is None:
            yield fail("letta", "LETTA_BASE_URL is not set", "set it, or run `postroom up` in this folder")
            return
        try:
            port = open_letta(settings, self.opened.resources)
        except ConfigurationError as error:
            yield fail("letta", str(error), "correct LETTA_BASE_URL")
            return
        try:
            async for check in self._ask(port, settings.letta_base_url):
                yield check
        finally:
            await port.close()

    async def _ask(self, port: LettaPort, url: str) -> AsyncIterator[Check]:
        try:
            self.abilities = await port.abilities()
        except LettaUnavailableError as error:
            yield fail(
                "letta", f"{url} cannot be used: {error}", "start it, or correct LETTA_BASE_URL and LETTA_API_KEY"
            )
            return
        kind = "SIMULATED agents (the sandbox)" if self.abilities.simulated else f"version {self.abilities.version}"
        yield ok("letta", f"{kind} at {url}")
        yield one_turn(self.abilities)
        yield one_at_a_time(self.abilities)
        async for check in self._agents(port):
            yield check

    async def _agents(self, port: LettaPort) -> AsyncIterator[Check]:
        tenants = await self.opened.tenants.all_ids(self.opened.operator)
        if not tenants:
            yield warn("tenants", "none is registered", "postroom tenant create NAME")
        for tenant in tenants:
            context = self.opened.operator.for_tenant(tenant)
            registered = await self.opened.tenants.show(self.opened.operator, tenant)
            yield await _tenant(port, context, suspended=registered.suspended)


def one_turn(abilities: Abilities) -> Check:
    """Whether a call that was cut can double a turn."""
    if abilities.joins:
        return ok(
            "one turn a message",
            "holds: a call that was cut is joined again under its otid, while the server remembers that (3 h)",
        )
    if abilities.lists_runs:
        said = "a cut call is looked for in runs and thread; where that cannot tell, the sender's on_unknown decides"
        return warn("one turn a message", said, "give the server Redis (LETTA_REDIS_HOST) to make it certain")
    said = "a cut call is looked for in the thread only; where that cannot tell, the sender's on_unknown decides"
    return warn("one turn a message", said, "use a server that lists runs, better one with Redis")


def one_at_a_time(abilities: Abilities) -> Check:
    """Whether two turns of one agent can overlap."""
    if abilities.locks:
        said = (
            "holds; the server refuses others, too, but those who take no lock (agents.messages.create), and for 5 min"
        )
        return ok("one turn at a time", said)
    said = "holds among Postroom's own messages; the server does not refuse a turn that somebody else begins meanwhile"
    return warn("one turn at a time", said, "let only Postroom talk to these agents, or give the server Redis")


async def _tenant(port: LettaPort, context: Context, *, suspended: bool) -> Check:
    name = f"tenant {context.tenant}"
    try:
        count = len([agent async for agent in port.agents(context)])
    except LettaUnavailableError as error:
        return fail(name, f"its agents cannot be listed: {error}", "look at the Letta server")
    said = f"{count} agent{'' if count == 1 else 's'} tagged {tenant_tag(context.tenant)}"
    if not count:
        return warn(name, said, f"tag its agents on the Letta server with {tenant_tag(context.tenant)}")
    if suspended:
        return warn(name, f"{said}; suspended: nothing is delivered", f"postroom tenant resume {context.tenant}")
    return ok(name, said)
