"""A tenant and what it may use."""

from pydantic import BaseModel, ConfigDict, Field

from schemas.ids import TenantId


class Limits(BaseModel):
    """What one tenant may use. Every number is a ceiling, held across all processes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    per_minute: int = Field(default=1000, ge=1, le=1_000_000, description="Turns of all its agents a minute.")
    team_per_minute: int = Field(default=1000, ge=1, le=1_000_000, description="Turns of one team a minute.")
    agent_per_minute: int = Field(default=1000, ge=1, le=1_000_000, description="Turns of one agent a minute.")
    in_flight: int = Field(default=64, ge=1, le=100_000, description="Turns at the same time.")
    max_bytes: int = Field(
        default=256 * 1024 * 1024, ge=1024, description="Bytes of messages accepted and not yet ended."
    )


class Tenant(BaseModel):
    """A registered tenant. The stream of an unregistered one is never read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: TenantId
    limits: Limits = Field(default_factory=Limits)
    suspended: bool = False
    created_at_ms: int = 0
