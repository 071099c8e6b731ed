"""What a one-shot command works with: settings that know of a running `up`, one connection, one principal."""

import asyncio
import getpass
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import typer

from console.local import Home
from schemas.context import Context, Operator, Role
from schemas.ids import TenantId, is_tenant_id
from workers import log
from workers import settings as settings_module
from workers.broker.client import Client
from workers.bus.client import TenantClient
from workers.directory.agents import Directory
from workers.directory.tenants import Tenants
from workers.errors import ConfigurationError, NotFoundError
from workers.resources import Resources, build
from workers.settings import Settings
from workers.turn.letta.contract import LettaPort
from workers.turn.letta.rest import RestLetta
from workers.turn.letta.transport import connect

Result = TypeVar("Result")
WAIT_FOR_LOCAL_SECONDS = 30.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Session:
    """One command's work."""

    settings: Settings
    resources: Resources
    operator: Operator

    @property
    def client(self) -> Client:
        """The connection to Redis."""
        return self.resources.client

    @property
    def tenants(self) -> Tenants:
        """The register."""
        return Tenants(self.client)

    async def tenant(self, given: str | None) -> Context:
        """The operator in the tenant that was named by option or setting.

        Raises:
            typer.BadParameter: none was named.
            NotFoundError: it is not registered.
        """
        tenant = await self.tenant_id(given)
        await self.tenants.show(self.operator, tenant)
        return self.operator.for_tenant(tenant)

    async def tenant_id(self, given: str | None) -> TenantId:
        """Only its name.

        Raises:
            typer.BadParameter: none was named.
            NotFoundError: it cannot be a tenant's.
        """
        tenant = given or self.settings.tenant
        if tenant is None:
            known = ", ".join(await self.tenants.all_ids(self.operator)) or "none yet: `postroom tenant create NAME`"
            raise typer.BadParameter(f"no tenant: give --tenant NAME or set POSTROOM_TENANT (registered: {known})")
        if not is_tenant_id(tenant):
            raise NotFoundError(f"there is no tenant {tenant!r}")
        return tenant

    def producer(self, tenant: TenantId, *, operator: bool = False) -> TenantClient:
        """The client of a producer of that tenant, who may act as its operator where the command line says so."""
        roles = {Role.PRODUCER, Role.OPERATOR} if operator else {Role.PRODUCER}
        context = Context(tenant=tenant, principal=self.operator.principal, roles=frozenset(roles))
        return TenantClient(context, self.resources)

    async def now_ms(self) -> int:
        """Redis' time: what every time in the ledger is compared with."""
        seconds, micros = await self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    @asynccontextmanager
    async def letta(self) -> AsyncIterator[LettaPort]:
        """The Letta server.

        Raises:
            ConfigurationError: there is no address, or not one that may be used.
        """
        port = open_letta(self.settings, self.resources)
        try:
            yield port
        finally:
            await port.close()

    @asynccontextmanager
    async def directory(self) -> AsyncIterator[Directory]:
        """The agents of every tenant, by asking Letta."""
        async with self.letta() as port:
            yield Directory(self.client, port, self.resources.clock)


def principal() -> str:
    """Who acts: the user of this operating system."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):
        return f"cli:uid-{os.getuid()}"


def open_letta(settings: Settings, resources: Resources) -> LettaPort:
    """The adapter for the server that the settings name.

    Raises:
        ConfigurationError: there is no address, or not one that may be used.
    """
    key = settings.letta_api_key
    client = connect(
        settings.required_letta_base_url(),
        api_key=key.get_secret_value() if key else None,
        allow_insecure=settings.letta_allow_insecure,
    )
    return RestLetta(client, resources.clock)


def find_settings() -> Settings:
    """The settings; what is not set comes from a running `up`. What is set always wins.

    Raises:
        ConfigurationError: a value is wrong.
    """
    settings = settings_module.load()
    running = Home(settings.home).running()
    if running is None:
        return settings
    found: dict[str, object] = {}
    if settings.redis_url is None and running.redis_url is not None:
        found["redis_url"] = running.redis_url
    if settings.letta_base_url is None and running.letta_base_url is not None:
        found["letta_base_url"] = running.letta_base_url
    return settings_module.load(**found) if found else settings


def require_addresses(settings: Settings, *, letta: bool) -> None:
    """Says what is missing and where it could come from.

    Raises:
        ConfigurationError: an address is not set, and no `up` runs here.
    """
    missing = [] if settings.redis_url else ["POSTROOM_REDIS_URL"]
    if letta and not settings.letta_base_url:
        missing.append("LETTA_BASE_URL")
    if not missing:
        return
    home = Home(settings.home)
    running = home.running()
    if running is not None:
        why = f"the `postroom up` of {home.path} was given its own by setting; set the same here"
    else:
        why = f"{home.why_not()}; `postroom up` starts one"
    raise ConfigurationError(f"{' and '.join(missing)} not set, and {why}")


async def wait_for_addresses(*, seconds: float = WAIT_FOR_LOCAL_SECONDS) -> Settings:
    """The settings of a service: waits for the local parts to come up where an address is not set.

    Raises:
        ConfigurationError: they did not come up in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        settings = find_settings()
        try:
            require_addresses(settings, letta=True)
        except ConfigurationError:
            if loop.time() > deadline:
                raise
        else:
            return settings
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def session(*, letta: bool = False) -> AsyncIterator[Session]:
    """Opens what a command needs, and closes it.

    Raises:
        ConfigurationError: a setting is wrong, or an address is missing.
    """
    settings = find_settings()
    require_addresses(settings, letta=letta)
    log.configure(settings.model_copy(update={"log_level": "error"}), sys.stderr)
    resources = build(settings, "cli")
    try:
        yield Session(settings, resources, Operator(principal()))
    finally:
        await resources.close()


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a command's coroutine to its end."""
    return asyncio.run(work)
