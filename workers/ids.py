"""The one place where ids are made."""

import os
import socket

from ulid import ULID

from schemas.ids import MessageId


def new_message_id() -> MessageId:
    """A new id: sortable by time, 26 characters."""
    return str(ULID())


def new_seed() -> str:
    """Names one wake-up."""
    return str(ULID())


def new_process_id(role: str) -> str:
    """Names this process among all that share a Redis."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}:{str(ULID())[-6:]}"
