"""arq's connection, on our terms: our own pool with timeouts, JSON instead of pickle (HAZARDS.md A1, A3, A12).

arq holds wake-ups only. Losing every key of it loses nothing.
"""

import json
import re
from typing import Any, Literal

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix
from pydantic import BaseModel, ConfigDict, Field

from schemas.ids import TenantId
from workers.broker import keys
from workers.broker.client import connection_pool
from workers.broker.rules import Pool

DRAIN = "drain"
MAX_JOB_BYTES = 4_096
_JOB_ID = re.compile(rb"^(express|standard|bulk)-[A-Za-z0-9-]{1,64}$")


class DrainJob(BaseModel):
    """What stands in an arq job: arq's own short names. Anything else is not run."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    t: int | None
    f: Literal["drain"]
    a: tuple[TenantId] = Field(strict=False)
    k: dict[str, int] = Field(max_length=0)
    et: int


def serialize(job: dict[str, Any]) -> bytes:
    """A job as JSON. Results, which nobody reads, become nothing at all."""
    if "r" in job:
        return b""
    return json.dumps(job).encode()


def deserialize(raw: bytes) -> dict[str, Any]:
    """A job from JSON, checked: whatever somebody wrote there, only a drain of a tenant comes out.

    Raises:
        ValueError: anything else.
    """
    if len(raw) > MAX_JOB_BYTES:
        raise ValueError("too large for a job of ours")
    return DrainJob.model_validate_json(raw).model_dump()


def connect_arq(url: str, *, pool: Pool = Pool.STANDARD) -> ArqRedis:
    """Arq's client on a pool of ours, bound to one queue."""
    return ArqRedis(
        connection_pool(url),
        job_serializer=serialize,
        job_deserializer=deserialize,
        default_queue_name=keys.queue(pool),
    )


def job_id(pool: Pool, seed: str) -> str:
    """The id of the drain that a claim stands for."""
    return f"{pool}-{seed}"


def is_job_id(raw: bytes) -> bool:
    """Whether we made it. One that arq cannot decode stops every worker (HAZARDS.md A11)."""
    return _JOB_ID.fullmatch(raw) is not None


def job_key(pool: Pool, seed: str) -> str:
    """Where arq keeps the job while it is queued or running."""
    return f"{job_key_prefix}{job_id(pool, seed)}"


def in_progress_key(pool: Pool, seed: str) -> str:
    """What arq writes while a worker runs the job, for a while: it bears no owner."""
    return f"{in_progress_key_prefix}{job_id(pool, seed)}"
