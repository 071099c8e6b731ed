"""Every setting, read once from the environment and `.env`, frozen, and refused loudly.

`deploy/env.example` documents each one; a test compares the two.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.ids import TenantId
from workers.broker.rules import Pool, Rules, Wait
from workers.errors import ConfigurationError

LEASE_SECONDS = 15.0
RENEW_SECONDS = 5.0


class Settings(BaseSettings):
    """One frozen object for a whole process."""

    model_config = SettingsConfigDict(
        env_prefix="POSTROOM_",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
    )

    redis_url: SecretStr | None = Field(
        default=None,
        description="Where the messages live: redis:// or redis+sentinel://host,host/service. "
        "Unset: `postroom up`'s own.",
    )
    arq_redis_url: SecretStr | None = Field(
        default=None, description="Where arq's wake-ups live; unset: with the messages."
    )
    letta_base_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("LETTA_BASE_URL", "letta_base_url"),
        description="The Letta server. Unset: the sandbox of `postroom up`.",
    )
    letta_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("LETTA_API_KEY", "letta_api_key"),
        description="Its key.",
    )
    letta_allow_insecure: bool = Field(
        default=False, description="Allow plain http to a Letta server off this machine."
    )
    letta_max_in_flight: int = Field(
        default=128,
        ge=1,
        le=10_000,
        description="The most turns a process has in flight; it finds the best below by itself.",
    )
    wait_replicas: int = Field(
        default=0,
        ge=0,
        le=10,
        description="Replicas that must have a message before it is accepted; 0: the master alone.",
    )
    wait_timeout_seconds: float = Field(
        default=1, ge=0.01, le=4, description="How long they have for it; then the publish is answered as not accepted."
    )
    accept_loss: bool = Field(default=False, description="Start on a Redis that may lose messages (no AOF, eviction).")
    tenant: TenantId | None = Field(default=None, description="The tenant of the shell commands.")
    home: Path = Field(default=Path(".postroom"), description="Where `postroom up` keeps its Redis and its addresses.")

    pools: Annotated[tuple[Pool, ...], NoDecode] = Field(
        default=(Pool.EXPRESS, Pool.STANDARD, Pool.BULK), description="The pools of a pool process, by comma."
    )
    express_turns: int = Field(
        default=16, ge=1, le=10_000, description="Turns at once in the express pool of a process."
    )
    standard_turns: int = Field(default=64, ge=1, le=10_000, description="The same for the standard pool.")
    bulk_turns: int = Field(default=32, ge=1, le=10_000, description="The same for the bulk pool.")

    turn_deadline_seconds: float = Field(
        default=300, gt=0, le=3600, description="The longest one call of an agent may take."
    )
    max_attempts: int = Field(default=5, ge=1, le=100, description="Attempts before a message is a dead letter.")
    backoff_base_seconds: float = Field(
        default=1, ge=0.001, le=3600, description="The first pause between attempts; it doubles."
    )
    backoff_cap_seconds: float = Field(default=60, gt=0, le=86_400, description="The longest pause between attempts.")

    newer_wait_seconds: float = Field(
        default=600,
        ge=0,
        le=86_400,
        description="How long a process leaves what a newer version wrote, and it cannot read, to one that can.",
    )
    park_after: int = Field(
        default=5,
        ge=0,
        le=1_000,
        description="An agent is parked after so many dead letters in a row; 0: only where its history is broken.",
    )
    aging_high_seconds: int = Field(default=15, ge=0, description="A high message that has waited so long goes first.")
    aging_normal_seconds: int = Field(default=60, ge=0, description="The same for a normal one.")
    aging_low_seconds: int = Field(default=300, ge=0, description="The same for a low one.")
    kept_days: float = Field(default=7, ge=1, le=3650, description="How long ended messages and events are kept.")
    canary_prefix: str = Field(
        default="CANARY-", max_length=100, description="How the names of trial copies begin: selectors leave them out."
    )

    log_format: Literal["console", "json"] = Field(default="console", description="For people, or for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="From this level on.")
    log_key: SecretStr = Field(
        default=SecretStr("postroom"),
        description="Keys the opaque tenant ids in logs and traces. Make it your own.",
    )

    @field_validator("pools", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("backoff_cap_seconds")
    @classmethod
    def _is_not_below_base(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("backoff_base_seconds", 0):
            raise ValueError("expected at least POSTROOM_BACKOFF_BASE_SECONDS")
        return value

    @field_validator("letta_base_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("expected a URL that starts with http:// or https://")
        return value

    def turns(self, pool: Pool) -> int:
        """Turns at once in one pool of one process."""
        return {
            Pool.EXPRESS: self.express_turns,
            Pool.STANDARD: self.standard_turns,
            Pool.BULK: self.bulk_turns,
        }[pool]

    def rules(self) -> Rules:
        """The numbers every script must agree on."""
        aging = (
            0,
            self.aging_high_seconds * 1000,
            self.aging_normal_seconds * 1000,
            self.aging_low_seconds * 1000,
        )
        return Rules(aging_ms=aging, kept_ms=int(self.kept_days * 86_400_000), park_after=self.park_after)

    def wait(self) -> Wait:
        """How many replicas must confirm, and within which time."""
        return Wait(self.wait_replicas, int(self.wait_timeout_seconds * 1000))

    def required_redis_url(self) -> str:
        """The Redis URL.

        Raises:
            ConfigurationError: it is not set.
        """
        if self.redis_url is None:
            raise ConfigurationError(
                "POSTROOM_REDIS_URL is not set: expected redis://host:port/db, "
                "redis+sentinel://host:port,host:port/service, or a running `postroom up` in this folder"
            )
        return self.redis_url.get_secret_value()

    def required_arq_url(self) -> str:
        """Where arq's wake-ups live: a Redis of their own, or the messages'.

        Raises:
            ConfigurationError: neither is set.
        """
        return self.arq_redis_url.get_secret_value() if self.arq_redis_url else self.required_redis_url()

    def required_letta_base_url(self) -> str:
        """The Letta server's URL.

        Raises:
            ConfigurationError: it is not set.
        """
        if self.letta_base_url is None:
            raise ConfigurationError(
                "LETTA_BASE_URL is not set: expected http(s)://host:port, or a running `postroom up` in this folder"
            )
        return self.letta_base_url


def load(**overrides: object) -> Settings:
    """Reads the settings once.

    Raises:
        ConfigurationError: a value is wrong; the message gives the variable, what was expected and what came.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        raise ConfigurationError("\n".join(_sentence(one) for one in error.errors())) from None


def variable(field: str) -> str:
    """The environment variable of a setting."""
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return f"POSTROOM_{field.upper()}"


def _sentence(error: ErrorDetails) -> str:
    field = str(error["loc"][0])
    name = field if field.isupper() else variable(field)
    secret = field in {"redis_url", "arq_redis_url", "letta_api_key", "log_key", "LETTA_API_KEY"}
    came = "" if secret else f", got {error['input']!r}"
    return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}{came}"
