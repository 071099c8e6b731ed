"""What is known of an agent."""

from pydantic import BaseModel, ConfigDict

from schemas.ids import AgentId, TenantId


def tenant_tag(tenant: TenantId) -> str:
    """The tag that makes an agent on the Letta server belong to a tenant."""
    return f"tenant:{tenant}"


class Agent(BaseModel):
    """An agent of a tenant, as the directory remembers it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: AgentId
    name: str
    tags: tuple[str, ...] = ()

    def belongs_to(self, tenant: TenantId) -> bool:
        """Whether the agent carries this tenant's tag."""
        return tenant_tag(tenant) in self.tags
