"""The one place where ids are made, and where names of tenants come out of Redis."""

import os
import socket
from collections.abc import Iterable

from ulid import ULID

from schemas.ids import MessageId, TenantId, is_tenant_id


def new_message_id() -> MessageId:
    """A new id: sortable by time, 26 characters."""
    return str(ULID())


def new_seed() -> str:
    """Names one wake-up."""
    return str(ULID())


def new_incarnation() -> str:
    """Tells a tenant from another one of the same name, before or after it."""
    return str(ULID())


def new_process_id(role: str, pid: int | None = None) -> str:
    """Names a process of this machine, this one unless told otherwise, among all that share a Redis."""
    return f"{role}@{socket.gethostname()}:{pid or os.getpid()}:{str(ULID())[-6:]}"


def tenant_ids(members: Iterable[bytes]) -> list[TenantId]:
    """The tenants among what a key of ours holds. What a hand put there and is none stops nobody."""
    names = (member.decode(errors="replace") for member in members)
    return [name for name in names if is_tenant_id(name)]
