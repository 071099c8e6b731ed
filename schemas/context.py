"""Who acts, and for which tenant. The first argument of everything that touches Redis, Letta, a log or a trace."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

from schemas.ids import TenantId, is_tenant_id


class Role(StrEnum):
    """What a principal may do inside its tenant."""

    PRODUCER = "producer"
    OWNER = "owner"
    OPERATOR = "operator"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """W3C trace context (https://www.w3.org/TR/trace-context/), as it travels in the envelope."""

    traceparent: str
    tracestate: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """One tenant, one principal. There is no path to a tenant's data without one.

    The tenant comes from the boundary a message came through (the stream's name, the credential), never
    from its text: build a context where that boundary is, and pass it down unchanged.
    """

    tenant: TenantId
    principal: str
    roles: frozenset[Role] = field(default_factory=frozenset)
    trace: TraceContext | None = None
    hop: int = 0

    def __post_init__(self) -> None:
        if not is_tenant_id(self.tenant):
            raise ValueError(f"not a tenant id: {self.tenant!r} (expected [a-z0-9-], 1 to 40 characters)")

    def with_trace(self, trace: TraceContext | None) -> Self:
        """The same principal on another trace."""
        return replace(self, trace=trace)

    def at_hop(self, hop: int) -> Self:
        """The same principal, `hop` messages away from the root of the chain."""
        return replace(self, hop=hop)


@dataclass(frozen=True, slots=True)
class Operator:
    """The other, explicit type: an operator who acts across tenants (list, create, sweep).

    It gives no access to a tenant's data by itself: `for_tenant` names the tenant first.
    """

    principal: str

    def for_tenant(self, tenant: TenantId) -> Context:
        """A context inside one tenant, with the operator's role."""
        return Context(tenant=tenant, principal=self.principal, roles=frozenset({Role.OPERATOR}))


def service_context(tenant: TenantId, service: str) -> Context:
    """The context of one of our own services working for a tenant whose stream or mailbox it opened."""
    return Context(tenant=tenant, principal=f"service:{service}", roles=frozenset({Role.SERVICE}))
