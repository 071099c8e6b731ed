"""The register of tenants. The stream of an unregistered tenant is never read."""

from dataclasses import dataclass

from schemas.context import Context, Operator
from schemas.ids import TenantId, is_tenant_id
from schemas.tenant import Limits, Tenant
from workers.broker import agenda, keys
from workers.broker.client import Client
from workers.broker.scripts import Scripts
from workers.errors import NotFoundError, RefusedError
from workers.ids import new_incarnation, tenant_ids


@dataclass(frozen=True, slots=True)
class Tenants:
    """For operators: every call names the principal who acts."""

    client: Client

    async def create(self, operator: Operator, tenant: TenantId, limits: Limits, *, now_ms: int) -> Tenant:
        """Registers a tenant.

        Raises:
            RefusedError: the id is odd, or taken, or still being deleted.
        """
        if not is_tenant_id(tenant):
            raise RefusedError("expected lower-case letters, digits and dashes, 1 to 40", where=f"tenant {tenant!r}")
        context, scripts = operator.for_tenant(tenant), Scripts(self.client)
        known = {**limits.model_dump(), "suspended": 0, "created_at_ms": now_ms}
        fields = [*known.items(), ("incarnation", new_incarnation())]
        leaving = await self.client.zscore(keys.leaving(), tenant) is not None
        if leaving or not await scripts.register(context, fields=fields):
            raise RefusedError(
                "is being deleted, which takes seconds while a dispatcher runs; create it again then",
                where=f"tenant {tenant!r}",
            )
        # Who adds the name has made the tenant: a registration that was cut before is made whole by the next.
        if not await self.client.sadd(keys.tenants(), tenant):
            raise RefusedError("is registered already", where=f"tenant {tenant!r}")
        await scripts.amend(context, fields=fields)
        await self._tell(operator.for_tenant(tenant))
        return Tenant(id=tenant, limits=limits, created_at_ms=now_ms)

    async def all_ids(self, operator: Operator) -> list[TenantId]:  # noqa: ARG002  # nobody lists without saying who
        """Every registered tenant, sorted."""
        return sorted(tenant_ids(await self.client.smembers(keys.tenants())))

    async def show(self, operator: Operator, tenant: TenantId) -> Tenant:
        """One tenant.

        Raises:
            NotFoundError: it is not registered.
        """
        if not is_tenant_id(tenant):
            raise NotFoundError(f"there is no tenant {tenant!r}")
        found: dict[bytes, bytes] = await self.client.hgetall(keys.of(operator.for_tenant(tenant)).tenant)
        if b"leaving" in found:
            raise NotFoundError(f"tenant {tenant!r} is being deleted")
        if not found:
            raise NotFoundError(f"there is no tenant {tenant!r}: `postroom tenant create {tenant}` registers it")
        # A newer version may have written more than this one knows.
        known = {b"suspended", b"created_at_ms", *(name.encode() for name in Limits.model_fields)}
        fields = {name.decode(): int(value) for name, value in found.items() if name in known}
        return Tenant(
            id=tenant,
            limits=Limits.model_validate(fields),
            suspended=bool(fields.get("suspended")),
            created_at_ms=fields.get("created_at_ms", 0),
        )

    async def change_limits(self, operator: Operator, tenant: TenantId, limits: Limits) -> Tenant:
        """Sets the limits; they hold from the next take on.

        Raises:
            NotFoundError: it is not registered.
        """
        await self.show(operator, tenant)
        context = operator.for_tenant(tenant)
        scripts = Scripts(self.client)
        await scripts.amend(context, fields=list(limits.model_dump().items()))
        cursor, _ = await scripts.lift(context)
        while cursor:
            cursor, _ = await scripts.lift(context, cursor=cursor)
        await self._tell(operator.for_tenant(tenant))
        return await self.show(operator, tenant)

    async def suspend(self, operator: Operator, tenant: TenantId, *, suspended: bool) -> Tenant:
        """Stops or resumes all delivery of a tenant. Nothing is lost; what expires meanwhile expires.

        Raises:
            NotFoundError: it is not registered.
        """
        await self.show(operator, tenant)
        fields = [("suspended", int(suspended))]
        await Scripts(self.client).amend(operator.for_tenant(tenant), fields=fields)
        await self._tell(operator.for_tenant(tenant))
        return await self.show(operator, tenant)

    async def _tell(self, context: Context) -> None:
        await agenda.wake_dispatchers(context, self.client)
        # The sweeper looks at once, and rings where a changed limit lets something go.
        await self.client.zadd(keys.agenda(), {context.tenant: 0})
